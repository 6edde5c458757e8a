//! Texts as Python writes them: JSON, and names within messages.

use std::fmt::{self, Write};

use serde_json::Value;

/// JSON whose fields keep their order, and whose text is `json.dumps`'s: a blank after each comma and colon, ASCII only.
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

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Value(value) => write_value(f, value),
            Json::Fields(fields) => write_fields(f, fields.iter().map(|(key, json)| (key, json)), Json::fmt),
            Json::List(items) => write_list(f, items, Json::fmt),
        }
    }
}

fn write_value(f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Null | Value::Bool(_) => write!(f, "{value}"),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => f.write_str(&float_text(float)),
            None => write!(f, "{number}"),
        },
        Value::String(text) => write_text(f, text),
        Value::Array(items) => write_list(f, items, |value, f| write_value(f, value)),
        Value::Object(fields) => write_fields(f, fields, |value, f| write_value(f, value)),
    }
}

fn write_list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    write: impl Fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    f.write_char('[')?;
    for (at, item) in items.iter().enumerate() {
        f.write_str(if at == 0 { "" } else { ", " })?;
        write(item, f)?;
    }
    f.write_char(']')
}

fn write_fields<'a, T: 'a>(
    f: &mut fmt::Formatter<'_>,
    fields: impl IntoIterator<Item = (&'a String, &'a T)>,
    write: impl Fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    f.write_char('{')?;
    for (at, (key, value)) in fields.into_iter().enumerate() {
        f.write_str(if at == 0 { "" } else { ", " })?;
        write_text(f, key)?;
        f.write_str(": ")?;
        write(value, f)?;
    }
    f.write_char('}')
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\u{8}' => f.write_str("\\b")?,
            '\u{c}' => f.write_str("\\f")?,
            ' '..='~' => f.write_char(c)?,
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(f, "\\u{unit:04x}")?;
                }
            }
        }
    }
    f.write_char('"')
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
            ..=' ' | '\u{7f}'..='\u{a0}' if c != ' ' => quoted += &format!("\\x{:02x}", u32::from(c)),
            _ if c.is_control() || (c.is_whitespace() && c != ' ') => quoted += &format!("\\u{:04x}", u32::from(c)),
            _ => quoted.push(c),
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
    fn values_are_written_as_python_writes_them() {
        for (value, text) in [
            (json!(null), "null"),
            (json!([true, false, []]), "[true, false, []]"),
            (json!({"b": {}, "a": [1, -2]}), r#"{"a": [1, -2], "b": {}}"#),
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
            assert_eq!(Json::from(value).to_string(), text);
        }
    }

    #[test]
    fn fields_keep_their_order() {
        let field = |key: &str, value: Value| (key.to_owned(), Json::from(value));
        let fields = Json::Fields(vec![field("b", json!(1)), field("a", json!({"y": 2, "x": 3}))]);
        assert_eq!(Json::List(vec![fields]).to_string(), r#"[{"b": 1, "a": {"x": 3, "y": 2}}]"#);
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
