//! What Circus answers over UDP to whoever looks for it.

use serde_json::json;

use super::python::dumps;

/// An answer: where commands are taken, as the configuration has it.
pub fn discovery_answer(endpoint: &str) -> String {
    dumps(&json!({"endpoint": endpoint}))
}

/// Whether a datagram is somebody's answer, rather than a question.
pub fn is_discovery_answer(datagram: &[u8]) -> bool {
    datagram.starts_with(br#"{"endpoint""#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_answered_in_circuss_words_and_no_answer_is_a_question() {
        let answer = discovery_answer("tcp://127.0.0.1:5555");
        assert_eq!(answer, r#"{"endpoint": "tcp://127.0.0.1:5555"}"#);
        assert!(is_discovery_answer(answer.as_bytes()));
        for question in [&b""[..], b"\"\"", b"{}", b"\xff\0", br#"{"endpoin"#] {
            assert!(!is_discovery_answer(question), "{question:?}");
        }
    }
}
