//! What circusctl tells of a legion: real agents, a real Redis, and members that come, change and fall silent.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use serde_json::{Value, json};

use agent::{Agent, Home, Said, wait_for};
use redis_server::RedisServer;

/// Two that would lead, `a` before `b`, and the arbiter `c`.
fn config(redis: &RedisServer, valor: u32) -> String {
    format!(
        "\n[redis]\nurl = {}\n\n[legion:clusterip]\nvalor = {valor}\nquorum = 2\nexpected = 3\ntolerance = 2\n\
         scroll = valor={valor}\non_lord = log:leads\n\n[watcher:beat]\ncmd = sleep 1000\nlegion = clusterip\n\
         \n[watcher:web]\ncmd = sleep 1000\n",
        redis.url()
    )
}

struct Legion {
    home: Home,
    agents: [Agent; 3],
    redis: RedisServer,
}

impl Legion {
    /// One whose lord is `a`, as all know.
    fn start() -> Legion {
        let (home, redis) = (Home::new(), RedisServer::start());
        let agents = [("a", 30), ("b", 20), ("c", 0)].map(|(name, valor)| home.agent(name, &config(&redis, valor)));
        let legion = Legion { home, agents, redis };
        for of in 0..3 {
            legion.comes_to(of, |view| view["lord_node"] == "a" && view["votes"] == 3);
        }
        legion.comes_to(0, |view| view["state"] == "lord");
        legion
    }

    fn ctl(&self, of: usize, words: &[&str]) -> Said {
        self.agents[of].ctl(&self.home, words)
    }

    fn view(&self, of: usize) -> Value {
        self.ctl(of, &["legions", "clusterip", "--json"]).expect(0).json()["legions"][0].clone()
    }

    #[track_caller]
    fn comes_to(&self, of: usize, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        wait_for(&format!("the view of {of}"), || {
            last = self.view(of);
            is(&last).then(|| last.clone())
        })
    }
}

/// The words of a line, without what stands between them.
fn line_of(text: &str, first: &str) -> String {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(first));
    line.unwrap_or_else(|| panic!("no line {first} in:\n{text}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn each_member_tells_who_leads_in_a_line_in_full_and_in_json() {
    let legion = Legion::start();
    let [a, b] = [0, 1].map(|of| legion.view(of));
    let token = a["token"].as_u64().expect("the lord knows its token");

    let row = line_of(&legion.ctl(0, &["legions"]).expect(0).out, "clusterip");
    assert!(
        row.starts_with(&format!("clusterip a {token} 3 of 3 live, needs 2 20")) && row.ends_with("Z lord"),
        "{row}"
    );
    let row = line_of(&legion.ctl(1, &["legions"]).expect(0).out, "clusterip");
    assert!(row.starts_with("clusterip a - 3 of 3 live") && row.ends_with("standby a comes before it"), "{row}");
    let row = line_of(&legion.ctl(2, &["legions"]).expect(0).out, "clusterip");
    assert!(row.ends_with("Z arbiter"), "{row}");
    let all = legion.ctl(1, &["legions", "--all"]).expect(0).out;
    assert!(line_of(&all, "clusterip").starts_with(&format!("clusterip a {token} ")), "{all}");

    let page = legion.ctl(1, &["legions", "clusterip", "--all"]).expect(0).out;
    assert!(page.starts_with("clusterip   legion, lord on a\n"), "{page}");
    assert_eq!(line_of(&page, "b"), "b standby: a comes before it");
    assert!(page.contains("\n  c          arbiter: an arbiter (valor 0), which never leads\n"), "{page}");
    for (node, words) in [("a", "30 lord"), ("b", "20 would lead"), ("c", "0 arbiter")] {
        let members = &page[page.find("MEMBER").expect("a table")..];
        let line = line_of(members, node);
        assert!(line.starts_with(&format!("{node} {words} ")), "{line}");
    }
    assert!(page.contains(" ago  a leads\n"), "{page}");

    // uWSGI's words.
    let now = legion.ctl(0, &["legions", "--json"]).json()["time"].as_f64().expect("a time");
    assert_eq!(
        (&b["legion"], &b["uuid"], &b["valor"], &b["quorum"], &b["i_am_the_lord"], &b["lord_valor"], &b["lord_uuid"]),
        (&json!("clusterip"), &json!("b"), &json!(20), &json!(2), &json!(0.0), &json!(30), &json!("a"))
    );
    assert_eq!(b["nodes"], json!(["a", "c"]));
    let since = a["i_am_the_lord"].as_f64().expect("a time");
    assert!(now - 60.0 < since && since <= now, "{since}");
    let members: Vec<_> =
        b["members"].as_array().expect("a list").iter().map(|one| (&one["name"], &one["valor"])).collect();
    assert_eq!(members, [(&json!("a"), &json!(30)), (&json!("b"), &json!(20)), (&json!("c"), &json!(0))]);
    assert!(b["members"].as_array().unwrap().iter().all(|one| one["last_seen"].as_f64() > Some(now - 60.0)), "{b}");
    // Ours.
    assert!(a["lease_until"].as_f64() > Some(since) && b["lease_until"].is_null() && b["token"].is_null(), "{a} {b}");
    assert_eq!((&b["votes"], &b["joined"], &b["last_change"]), (&json!(3), &json!(true), &b["changes"][0]));

    // Those who wait behind a better one wait, and what follows is wanted where the lord is.
    let leases = legion.ctl(1, &["leases"]).expect(0).out;
    assert!(
        line_of(&leases, "clusterip").ends_with("Z b c stands aside: an arbiter (valor 0), which never leads"),
        "{leases}"
    );
    wait_for("the follower", || {
        let status = legion.ctl(2, &["status", "--all"]);
        (line_of(&status.out, "beat") == "beat 1/1 1/1 - - 0" && status.code == 0).then_some(())
    });
    legion.agents[1].notes("beat", "a leads clusterip");
    legion.agents[2].notes("beat", "a leads clusterip");
}

#[test]
fn who_asks_whether_it_leads_can_go_by_the_exit_code() {
    let legion = Legion::start();
    let token = legion.view(0)["token"].clone();
    let said = legion.ctl(0, &["lord", "clusterip"]).expect(0).out;
    assert!(said.starts_with(&format!("a leads clusterip, under token {token}, for ")), "{said}");
    assert_eq!(legion.ctl(1, &["lord", "clusterip"]).expect(1).out, "a leads clusterip, not b\n");
    assert_eq!(legion.ctl(2, &["lord", "CLUSTERIP"]).expect(1).out, "a leads CLUSTERIP, not c\n");
    legion.ctl(1, &["lord", "clusterip", "--node", "a"]).expect(0);
    legion.ctl(0, &["lord", "clusterip", "--node", "b,c"]).expect(1);
    legion.ctl(2, &["lord", "clusterip", "--all"]).expect(0);
    legion.ctl(0, &["lord", "clusterip", "--node", "b,nosuch"]).expect(4);
    // Over Redis all are asked.
    let over_redis = ["--endpoint", &legion.redis.url(), "lord", "clusterip"];
    let said = legion.home.ctl(&over_redis).expect(0).out;
    assert!(said.contains("\nb: a leads clusterip, not b\n"), "{said}");
    for (name, said) in [
        ("clusterp", "legion clusterp not found; did you mean clusterip?"),
        ("beat", "legion beat not found; did you mean clusterip?"),
        ("web", "legion web not found"),
    ] {
        let wrong = legion.ctl(0, &["lord", name]).expect(2);
        assert_eq!((wrong.out.as_str(), wrong.err), ("", format!("error: {said}\n")));
        legion.ctl(0, &["legions", name]).expect(1);
        legion.ctl(0, &["scrolls", name]).expect(1);
    }
    let reply = legion.ctl(0, &["lord", "clusterip", "--json"]).expect(0).json();
    assert_eq!((&reply["me"], &reply["token"], &reply["lord"]), (&json!(true), &token, &json!("a")));
    let deadline = reply["deadline_unix_ms"].as_f64().expect("a deadline") / 1_000.0;
    let left = reply["left"].as_f64().expect("a time");
    assert!((deadline - reply["time"].as_f64().unwrap() - left).abs() < 0.01 && 0.0 < left && left < 2.0, "{reply}");
    assert!(reply["deadline_boottime_ns"].is_u64() && reply.get("nodes").is_none(), "{reply}");
    let reply = legion.ctl(1, &["lord", "clusterip", "--json"]).expect(1).json();
    assert_eq!(
        (&reply["me"], &reply["token"], &reply["deadline_unix_ms"]),
        (&json!(false), &Value::Null, &Value::Null)
    );
    assert_eq!(reply["members"], json!(["a", "b", "c"]));
}

#[test]
fn a_scroll_that_is_set_is_heard_by_all_and_moves_nothing() {
    let legion = Legion::start();
    let token = legion.view(0)["token"].clone();
    legion.ctl(0, &["set", "clusterip", "scroll", "role=db"]).expect(0);
    for of in 0..3 {
        legion.comes_to(of, |view| view["members"][0]["scroll"] == "role=db");
    }
    let said = legion.ctl(1, &["scrolls", "clusterip"]).expect(0).out;
    assert_eq!(said, "MEMBER  SCROLL\na       role=db\nb       valor=20\nc       valor=0\n");
    let reply = legion.ctl(1, &["scrolls", "clusterip", "--json"]).expect(0).json();
    assert_eq!((&reply["lord"], &reply["lord_scroll"]), (&json!("a"), &json!("role=db")));
    assert_eq!(reply["scrolls"], json!(["valor=20", "role=db", "valor=0"]), "its own stands first");
    assert_eq!(legion.view(0)["token"], token, "it still leads under the same token");
}

#[test]
fn why_nobody_leads_is_told() {
    let mut legion = Legion::start();
    for of in [0, 2] {
        legion.agents[of].kill();
    }
    let view = legion.comes_to(1, |view| view["state"] == "no-quorum" && view["lord_node"].is_null());
    assert_eq!((&view["votes"], &view["reason"]), (&json!(1), &json!("no quorum: 1 of 2 members that have to live")));
    let said = legion.ctl(1, &["legions"]).expect(0).out;
    let row = line_of(&said, "clusterip");
    assert_eq!(row, "clusterip vacant - 1 of 3 live, needs 2 - no-quorum no quorum: 1 of 2 members that have to live");
    assert!(said.ends_with("nobody is known to lead clusterip.   circusctl legions clusterip --all\n"), "{said}");
    let said = legion.ctl(1, &["lord", "clusterip"]).expect(1).out;
    assert_eq!(said, "nobody is known to lead clusterip: no quorum: 1 of 2 members that have to live\n");
    let page = legion.ctl(1, &["legions", "clusterip"]).expect(0).out;
    assert!(page.starts_with("clusterip   legion, no-quorum on b\n  lord       nobody is known to lead\n"), "{page}");
    for change in ["a left", "c left", "nobody leads", "no quorum: 1 live, 2 have to"] {
        assert!(page.contains(&format!(" ago  {change}\n")), "{change} is missing in:\n{page}");
    }
}

#[test]
fn it_goes_where_people_move_it_and_stays_there_until_that_node_ceases_to_lead() {
    let legion = Legion::start();
    for (to, why) in [
        ("c", "it is an arbiter (valor 0); candidates: b"),
        ("B", "no such node is registered, did you mean b?; candidates: b"),
        ("mars", "no such node is registered; candidates: b"),
    ] {
        let refused = legion.ctl(1, &["failover", "clusterip", "--to", to]).expect(1);
        assert_eq!(refused.err, format!("error: {to} cannot take clusterip: {why}\n"));
    }
    let token = legion.view(0)["token"].clone();
    let moved = legion.ctl(1, &["failover", "clusterip", "--to", "b"]).expect(0).out;
    let ok = format!("ok, clusterip moved from a to b (it was token {token}); it stays until b ceases to lead\n");
    assert_eq!(moved, ok);
    legion.comes_to(1, |view| view["state"] == "lord");
    // `a` would lead again, and does not.
    let why = "it was moved to b, and stays until that one ceases to lead";
    legion.comes_to(0, |view| view["members"][0]["stands"] == true && view["reason"] == why);
    let page = legion.ctl(1, &["legions", "clusterip"]).expect(0).out;
    assert!(page.contains("\n  why        it was moved here, and stays until this node ceases to lead\n"), "{page}");
    let token = legion.view(1)["token"].clone();
    legion.ctl(0, &["set", "clusterip", "valor", "40"]).expect(0);
    legion.comes_to(1, |view| view["members"][0]["valor"] == 40);
    assert_eq!(legion.view(1)["token"], token, "it leads as before");
    let lord_process = || legion.ctl(1, &["list", "clusterip"]).expect(0).out;
    let before = lord_process();
    legion.ctl(1, &["restart", "clusterip"]).expect(0);
    wait_for("the next lord process", || (![&before, ""].contains(&lord_process().as_str())).then_some(()));
    let view = legion.comes_to(1, |view| view["state"] == "lord");
    assert_eq!(view["token"], token, "a restart of the lord process ends no lordship");
    legion.ctl(1, &["stop", "clusterip"]).expect(0);
    legion.comes_to(0, |view| view["state"] == "lord");
    legion.ctl(1, &["start", "clusterip"]).expect(0);
    legion.comes_to(1, |view| view["state"] == "standby" && view["reason"] == "a comes before it");
}

/// How a lord process ends by hand, and whether it could do `on_unlord`.
const ENDS: [(libc::c_int, bool); 2] = [(libc::SIGKILL, false), (libc::SIGTERM, true)];

#[test]
fn a_lord_process_that_is_ended_by_hand_leads_again_in_order() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let book = home.file("book");
    let wrote = || std::fs::read_to_string(&book).unwrap_or_default();
    let write = |what: &str| format!("cmd:echo {what} $LEGION_NODE >> {}", book.display());
    let config = |valor: u32| {
        format!(
            "\n[redis]\nurl = {}\n\n[legion:ip]\nvalor = {valor}\ntolerance = 6\ndeath_on_lord_error = 60\n\
             on_lord = {}\non_unlord = {}\n\n[watcher:beat]\nlegion = ip\n\
             cmd = sh -c 'trap \"{}; exit\" TERM; {}; while :; do sleep 0.05; done'\n",
            redis.url(),
            write("lord"),
            write("unlord"),
            write("gone").trim_start_matches("cmd:").replace("$LEGION_NODE", "$CIRCUS_NODE"),
            write("runs").trim_start_matches("cmd:").replace("$LEGION_NODE", "$CIRCUS_NODE"),
        )
    };
    let a = home.agent("a", &config(30));
    let b = home.agent("b", &config(20));
    wait_for("the follower", || wrote().ends_with("runs a\n").then_some(()));
    wait_for("the other", || {
        (b.ctl(&home, &["legions", "ip", "--json"]).json()["legions"][0]["votes"] == 2).then_some(())
    });
    for (signal, undoes) in ENDS {
        std::fs::write(&book, "").unwrap();
        let pid = a.ctl(&home, &["list", "ip"]).expect(0).out.trim().parse().expect("a pid");
        agent::send(pid, signal);
        wait_for("the next follower", || wrote().ends_with("runs a\n").then_some(()));
        // Told to stop, it is at it at once.
        let first = if undoes { wrote().lines().take(2).map(str::to_owned).collect() } else { Vec::new() };
        let rest: Vec<String> = wrote().lines().skip(first.len()).map(str::to_owned).collect();
        let mut sorted = first.clone();
        sorted.sort();
        match undoes {
            true => assert_eq!(
                (sorted, rest),
                (vec!["gone a".into(), "unlord a".into()], vec!["lord a".into(), "runs a".into()])
            ),
            false => assert_eq!(rest, ["gone a", "unlord a", "lord a", "runs a"]),
        }
    }
    // It is killed, and another one is to lead.
    std::fs::write(&book, "").unwrap();
    let pid = a.ctl(&home, &["list", "ip"]).expect(0).out.trim().parse().expect("a pid");
    agent::send(pid, libc::SIGKILL);
    a.ctl(&home, &["stop", "ip"]).expect(0);
    wait_for("the follower elsewhere", || wrote().ends_with("runs b\n").then_some(()));
    let wrote = wrote();
    let lines: Vec<&str> = wrote.lines().collect();
    // The next one may have begun here before it was told to stop.
    assert!(
        lines.starts_with(&["gone a", "unlord a"]) && lines.ends_with(&["unlord a", "lord b", "runs b"]),
        "{wrote}"
    );
}

#[test]
fn what_chooses_a_lord_can_be_asked_for_and_set_while_it_runs() {
    let legion = Legion::start();
    let options = legion.ctl(1, &["options", "clusterip", "--json"]).expect(0).json()["options"].clone();
    let of = |keys: [&str; 10]| keys.map(|key| options[key].clone());
    let keys = [
        "valor",
        "quorum",
        "expected",
        "preempt",
        "preempt_delay",
        "scroll",
        "tolerance",
        "freq",
        "action_timeout",
        "death_on_lord_error",
    ];
    let third = json!(0.666);
    let has =
        [json!(20), json!(2), json!(3), json!(true), json!(0), json!("valor=20"), json!(2), third, json!(30), json!(0)];
    assert_eq!(of(keys), has);
    assert_eq!(legion.ctl(1, &["get", "web", "valor"]).expect(0).out, "valor: \n", "it has none");
    assert_eq!(legion.ctl(1, &["get", "beat", "legion"]).expect(0).out, "legion: clusterip\n");

    legion.ctl(1, &["set", "clusterip", "valor", "50"]).expect(0);
    assert_eq!(legion.ctl(1, &["get", "clusterip", "valor"]).expect(0).out, "valor: 50\n");
    legion.comes_to(1, |view| view["state"] == "lord" && view["valor"] == 50);
    for (words, said) in [
        (["valor", "high"], "whole number"),
        (["valor", "70000"], "65535"),
        (["quorum", "4"], "a quorum of 4 is never reached by 3 nodes"),
        (["quorum", "0"], "1"),
    ] {
        let refused = legion.ctl(1, &["set", "clusterip", words[0], words[1]]).expect(1);
        assert!(refused.err.contains(said), "{words:?}: {}", refused.err);
    }
}
