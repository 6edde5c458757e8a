//! JSON as Python's `json.dumps` writes it: a blank after each comma and colon, and ASCII only.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// The text of `value`, in which a struct's fields keep their order.
pub(super) fn dumps(value: &impl Serialize) -> String {
    let mut text = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut text, Python)).expect("texts and numbers are JSON");
    String::from_utf8(text).expect("JSON is text")
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_reads_as_python_writes_it() {
        // json.dumps({"a": [1, 2.0, None], "b": {}, "c": "\"\\\n\x7f é 😀"})
        let value = json!({"a": [1, 2.0, null], "b": {}, "c": "\"\\\n\u{7f} é 😀"});
        let text = r#"{"a": [1, 2.0, null], "b": {}, "c": "\"\\\n\u007f \u00e9 \ud83d\ude00"}"#;
        assert_eq!(dumps(&value), text);
        assert_eq!(dumps(&json!([])), "[]");
    }
}
