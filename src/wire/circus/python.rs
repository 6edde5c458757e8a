//! JSON as Python's `json.dumps` writes it: a blank after each comma and colon, and ASCII only. And names, as its messages
//! have them.

use std::io;

use serde::ser::{Serialize, SerializeMap};
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// The text of `value`, in which a struct's fields keep their order.
pub(super) fn dumps(value: &impl Serialize) -> String {
    let mut text = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut text, Python)).expect("texts and numbers are JSON");
    String::from_utf8(text).expect("JSON is text")
}

/// A value of which the fields keep their order, where that matters.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    /// As it comes; an object's fields stand sorted.
    Value(Value),
    /// An object.
    Fields(Vec<(String, Json)>),
    /// A list.
    List(Vec<Json>),
}

impl From<Value> for Json {
    fn from(value: Value) -> Json {
        Json::Value(value)
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Value(value) => value.serialize(serializer),
            Json::List(items) => serializer.collect_seq(items),
            Json::Fields(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
        }
    }
}

struct Python;

impl Python {
    fn separate<W: ?Sized + io::Write>(writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        Python::separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        Python::separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float_text(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut units = [0; 2];
        for c in fragment.chars() {
            match c {
                ' '..='~' => writer.write_all(&[c as u8])?,
                // Beyond 16 bits a character is two of them, as in UTF-16.
                _ => c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }
}

/// `repr` of a float: the shortest text that reads back as it, with an exponent where that is far from 0.
fn float_text(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let text = float.to_string();
        return if text.contains('.') { text } else { text + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// `repr` of a text.
pub(super) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ if c == quote => quoted.extend(['\\', c]),
            _ if !c.is_control() && (!c.is_whitespace() || c == ' ') => quoted.push(c),
            ..='\u{ff}' => quoted += &format!("\\x{:02x}", u32::from(c)),
            _ => quoted += &format!("\\u{:04x}", u32::from(c)),
        }
    }
    quoted.push(quote);
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Each line is what CPython 3.11 prints for the value.
    #[test]
    fn it_reads_as_python_writes_it() {
        for (value, text) in [
            (json!({"b": {}, "a": [1, -2, null, []]}), r#"{"a": [1, -2, null, []], "b": {}}"#),
            (json!("a\"b\\c/\n\r\t\u{8}\u{c}\u{1}\u{7f}~"), r#""a\"b\\c/\n\r\t\b\f\u0001\u007f~""#),
            (json!("é 😀"), r#""\u00e9 \ud83d\ude00""#),
            (json!(u64::MAX), "18446744073709551615"),
            (json!(30.0), "30.0"),
            (json!(-0.0), "-0.0"),
            (json!(1_795_376_170.910_040_4), "1795376170.9100404"),
            (json!(0.1), "0.1"),
            (json!(0.0001), "0.0001"),
            (json!(0.000_012_5), "1.25e-05"),
            (json!(1e15), "1000000000000000.0"),
            (json!(1e16), "1e+16"),
            (json!(1.5e300), "1.5e+300"),
        ] {
            assert_eq!(dumps(&value), text);
        }
    }

    #[test]
    fn fields_keep_their_order() {
        let field = |key: &str, value: Value| (key.to_owned(), Json::from(value));
        let fields = Json::Fields(vec![field("b", json!(1)), field("a", json!({"y": 2, "x": 3}))]);
        assert_eq!(dumps(&Json::List(vec![fields])), r#"[{"b": 1, "a": {"x": 3, "y": 2}}]"#);
    }

    #[test]
    fn names_are_quoted_as_python_quotes_them() {
        for (text, quoted) in [
            ("frob", "'frob'"),
            ("it's", "\"it's\""),
            ("it's \"so\"", "'it\\'s \"so\"'"),
            ("a\\b\n\u{1}\u{7f}\u{a0}\u{2028}é", "'a\\\\b\\n\\x01\\x7f\\xa0\\u2028é'"),
        ] {
            assert_eq!(repr(text), quoted);
        }
    }
}
