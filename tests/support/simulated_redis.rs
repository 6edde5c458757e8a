//! A Redis in memory that runs the shipped Lua scripts: as much of the server as they call, and its clock a number.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use circus_agent::cluster::scripts::Call;
use mlua::{Function, Lua, MultiValue, Table, Value};

/// What is replaced in each script before it is compiled, and by what: where a test plants a bug.
pub(crate) type Rewrite = &'static [(&'static str, &'static str)];

/// The server.
pub(crate) struct SimulatedRedis {
    lua: Lua,
    data: Rc<RefCell<Data>>,
    /// By where their texts are: each is there for good, and long.
    scripts: BTreeMap<*const u8, Function>,
    rewrite: Rewrite,
}

type Strings = BTreeMap<String, (String, Option<u64>)>;
type Hashes = BTreeMap<String, (BTreeMap<String, String>, Option<u64>)>;

/// What a server held at one moment.
#[derive(Clone, Default, Debug)]
pub(crate) struct Snapshot(Strings, Hashes);

#[derive(Default)]
struct Data {
    now_ms: u64,
    /// Which server this is, and how often it began anew.
    identity: u64,
    incarnation: u64,
    replica: bool,
    strings: Strings,
    hashes: Hashes,
    published: Vec<(String, String)>,
}

impl SimulatedRedis {
    /// An empty server, told from others by `identity`, whose scripts `rewrite` rewrites.
    pub(crate) fn new(identity: u64, rewrite: Rewrite) -> SimulatedRedis {
        let lua = Lua::new();
        let data = Rc::new(RefCell::new(Data { identity, ..Data::default() }));
        let redis = lua.create_table().unwrap();
        let keys = Rc::clone(&data);
        let call = lua
            .create_function(move |lua, words: MultiValue| {
                let words: Vec<String> = words.iter().map(|word| word.to_string().unwrap()).collect();
                keys.borrow_mut().call(lua, &words)
            })
            .unwrap();
        let error_reply = lua
            .create_function(|lua, text: String| {
                let table = lua.create_table()?;
                table.set("err", text)?;
                Ok(table)
            })
            .unwrap();
        redis.set("call", call).unwrap();
        let pcall = "return function(...)
            local whole, said = pcall(redis.call, ...)
            if whole then return said end
            -- As the server says it, without where in Rust it was said.
            return {err = string.match(tostring(said), 'runtime error: ([^%c]*)')}
        end";
        redis.set("error_reply", error_reply).unwrap();
        lua.globals().set("redis", &redis).unwrap();
        redis.set("pcall", lua.load(pcall).eval::<Function>().unwrap()).unwrap();
        SimulatedRedis { lua, data, scripts: BTreeMap::new(), rewrite }
    }

    /// Runs a script at `now_ms` by the server's clock: its flat list of texts, or the error it returned.
    pub(crate) fn eval(&mut self, now_ms: u64, call: &Call) -> Result<Vec<String>, String> {
        self.data.borrow_mut().now_ms = now_ms;
        let globals = self.lua.globals();
        globals.set("KEYS", call.keys.clone()).unwrap();
        globals.set("ARGV", call.args.clone()).unwrap();
        let script = self.scripts.entry(call.script.as_ptr()).or_insert_with(|| {
            let text = self.rewrite.iter().fold(call.script.to_owned(), |text, (from, to)| text.replace(from, to));
            self.lua.load(text).into_function().expect("a script that compiles")
        });
        let answer: Table = script.call(()).map_err(|error| error.to_string())?;
        match answer.get::<Option<String>>("err").unwrap() {
            Some(error) => Err(error),
            None => Ok(answer.sequence_values::<String>().map(Result::unwrap).collect()),
        }
    }

    /// What was published since the last time: channels and messages.
    pub(crate) fn take_published(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.data.borrow_mut().published)
    }

    /// A new process over the same data, or over none.
    pub(crate) fn restart(&mut self, keep_data: bool) {
        let mut data = self.data.borrow_mut();
        data.incarnation += 1;
        if !keep_data {
            data.flush();
        }
    }

    /// What it holds now, as a replica or a snapshot file would keep it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let data = self.data.borrow();
        Snapshot(data.strings.clone(), data.hashes.clone())
    }

    /// A new process over older data: a restart from a snapshot file, or a replica that missed what came after.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) {
        self.restart(false);
        self.load(snapshot);
    }

    /// Takes over what its master has.
    pub(crate) fn load(&mut self, snapshot: &Snapshot) {
        let mut data = self.data.borrow_mut();
        data.strings.clone_from(&snapshot.0);
        data.hashes.clone_from(&snapshot.1);
    }

    /// Follows another, or leads: who leads anew begins a history of its own.
    pub(crate) fn follow(&mut self, replica: bool) {
        let mut data = self.data.borrow_mut();
        data.incarnation += 1;
        data.replica = replica;
    }

    /// Whether it follows another.
    pub(crate) fn is_replica(&self) -> bool {
        self.data.borrow().replica
    }

    /// FLUSHALL.
    pub(crate) fn flush(&mut self) {
        self.data.borrow_mut().flush();
    }

    /// DEL of one key.
    pub(crate) fn delete(&mut self, key: &str) {
        self.data.borrow_mut().remove(key);
    }

    /// SET of one key, without an end.
    pub(crate) fn overwrite(&mut self, key: &str, value: &str) {
        let mut data = self.data.borrow_mut();
        data.remove(key);
        data.strings.insert(key.to_owned(), (value.to_owned(), None));
    }

    /// SET of one key with an end, where it is not there; PEXPIRE where it has this value.
    pub(crate) fn others_turn(&mut self, now_ms: u64, (key, value): (&str, &str), ttl: Duration) {
        let mut data = self.data.borrow_mut();
        data.now_ms = now_ms;
        let end = now_ms + ttl.as_millis() as u64;
        match data.live(key) {
            Some((held, expiry)) if held == value => *expiry = Some(end),
            Some(_) => {}
            None => drop(data.strings.insert(key.to_owned(), (value.to_owned(), Some(end)))),
        }
    }

    /// GET of one key, at the time of the last call.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.data.borrow_mut().live(key).map(|(value, _)| value.clone())
    }

    /// HGET of one field.
    pub(crate) fn field(&self, key: &str, field: &str) -> Option<String> {
        self.data.borrow().hashes.get(key)?.0.get(field).cloned()
    }

    /// HSET of one field.
    pub(crate) fn set_field(&mut self, key: &str, field: &str, value: &str) {
        self.data.borrow_mut().hashes.entry(key.to_owned()).or_default().0.insert(field.to_owned(), value.to_owned());
    }

    /// MIGRATE: these keys go from here to `other`, whose clock shows `ahead` ms more, with the time they have left.
    pub(crate) fn migrate(&mut self, keys: &[String], other: &mut SimulatedRedis, ahead: i64) {
        let (mut from, mut to) = (self.data.borrow_mut(), other.data.borrow_mut());
        for key in keys {
            if let Some((value, end)) = from.strings.remove(key) {
                let end = end.map(|end| end.saturating_add_signed(ahead));
                to.strings.insert(key.clone(), (value, end));
            }
            if let Some((hash, end)) = from.hashes.remove(key) {
                let end = end.map(|end| end.saturating_add_signed(ahead));
                to.hashes.insert(key.clone(), (hash, end));
            }
        }
    }
}

impl Data {
    fn flush(&mut self) {
        self.strings.clear();
        self.hashes.clear();
    }

    fn remove(&mut self, key: &str) -> bool {
        self.strings.remove(key).is_some() | self.hashes.remove(key).is_some()
    }

    /// A key whose time is over is not there.
    fn expire(&mut self, key: &str) {
        let now = self.now_ms;
        let is_over = |end: &Option<u64>| end.is_some_and(|end| end <= now);
        if self.strings.get(key).is_some_and(|(_, end)| is_over(end))
            || self.hashes.get(key).is_some_and(|(_, end)| is_over(end))
        {
            self.remove(key);
        }
    }

    /// A hash, made where there is none.
    fn hash(&mut self, key: &str) -> mlua::Result<&mut BTreeMap<String, String>> {
        self.expire(key);
        match self.strings.contains_key(key) {
            true => Err(mlua::Error::runtime("WRONGTYPE Operation against a key holding the wrong kind of value")),
            false => Ok(&mut self.hashes.entry(key.to_owned()).or_default().0),
        }
    }

    fn live(&mut self, key: &str) -> Option<&mut (String, Option<u64>)> {
        self.expire(key);
        self.strings.get_mut(key)
    }

    fn call(&mut self, lua: &Lua, words: &[String]) -> mlua::Result<Value> {
        let text = |text: &str| Ok(Value::String(lua.create_string(text)?));
        let list = |items: Vec<Value>| Ok(Value::Table(lua.create_sequence_from(items)?));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if self.replica && matches!(words[0], "SET" | "PEXPIRE" | "DEL" | "HSET" | "HDEL") {
            return Err(mlua::Error::runtime("READONLY You can't write against a read only replica."));
        }
        match words.as_slice() {
            ["TIME"] => {
                let (secs, micros) = (self.now_ms / 1000, self.now_ms % 1000 * 1000);
                list(vec![text(&secs.to_string())?, text(&micros.to_string())?])
            }
            ["INFO", "replication"] => text(&format!(
                "# Replication\r\nrole:{}\r\nmaster_replid:{:040x}\r\n",
                if self.replica { "slave" } else { "master" },
                self.incarnation
            )),
            ["INFO", "server"] => {
                text(&format!("# Server\r\nrun_id:{:020x}{:020x}\r\n", self.identity, self.incarnation))
            }
            ["GET", key] => match self.live(key) {
                Some((value, _)) => text(value),
                None => Ok(Value::Boolean(false)),
            },
            ["EXISTS", key] => Ok(Value::Integer(i64::from(self.live(key).is_some()))),
            ["PTTL", key] => {
                let now = self.now_ms;
                Ok(Value::Integer(match self.live(key) {
                    None => -2,
                    Some((_, None)) => -1,
                    Some((_, Some(end))) => i64::try_from(*end - now).unwrap(),
                }))
            }
            ["SET", key, value, "PX", ttl] => {
                let end = self.now_ms + ttl.parse::<f64>().expect("a ttl") as u64;
                self.strings.insert((*key).to_owned(), ((*value).to_owned(), Some(end)));
                text("OK")
            }
            ["PEXPIRE", key, ttl] => {
                let end = self.now_ms + ttl.parse::<f64>().expect("a ttl") as u64;
                self.expire(key);
                let string = self.strings.get_mut(*key).map(|(_, expiry)| expiry);
                let expiry = string.or_else(|| self.hashes.get_mut(*key).map(|(_, expiry)| expiry));
                Ok(Value::Integer(i64::from(expiry.map(|expiry| *expiry = Some(end)).is_some())))
            }
            ["DEL", key] => Ok(Value::Integer(i64::from(self.remove(key)))),
            ["HMGET", key, fields @ ..] => {
                self.expire(key);
                let hash = self.hashes.get(*key).map(|(hash, _)| hash);
                let field = |field: &&str| match hash.and_then(|hash| hash.get(*field)) {
                    Some(value) => text(value),
                    None => Ok(Value::Boolean(false)),
                };
                list(fields.iter().map(field).collect::<mlua::Result<_>>()?)
            }
            ["HGET", key, field] => match self.hash(key)?.get(*field) {
                Some(value) => text(value),
                None => Ok(Value::Boolean(false)),
            },
            ["HGETALL", key] => {
                let pairs = self.hash(key)?.iter().flat_map(|(field, value)| [field.clone(), value.clone()]);
                list(pairs.map(|word| text(&word)).collect::<mlua::Result<_>>()?)
            }
            ["HSET", key, pairs @ ..] => {
                let hash = self.hash(key)?;
                for pair in pairs.chunks(2) {
                    hash.insert(pair[0].to_owned(), pair[1].to_owned());
                }
                Ok(Value::Integer(1))
            }
            ["HDEL", key, fields @ ..] => {
                let hash = self.hash(key)?;
                fields.iter().for_each(|field| drop(hash.remove(*field)));
                Ok(Value::Integer(1))
            }
            ["PUBLISH", channel, message] => {
                self.published.push(((*channel).to_owned(), (*message).to_owned()));
                Ok(Value::Integer(1))
            }
            // Nobody here reads what is kept for people.
            ["XADD", ..] => text("1-0"),
            other => Err(mlua::Error::runtime(format!("the simulated Redis knows no {other:?}"))),
        }
    }
}
