//! The last word of a session: a `metav1.Status` on the error stream (protocol v4 and later).

use serde_json::{Value, json};

/// How a session ended: an exit code, or why there is none.
pub type Outcome = Result<i32, String>;

/// How the outcome is told in a given protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusStyle {
    /// v1 to v3: a sentence, and nothing on success.
    Text,
    /// v4 and later: a JSON object, always.
    Json,
}

/// Bytes for the error stream.
pub fn encode(outcome: &Outcome, style: StatusStyle) -> Vec<u8> {
    match (style, outcome) {
        (StatusStyle::Json, outcome) => json_status(outcome).to_string().into_bytes(),
        (StatusStyle::Text, Ok(0)) => Vec::new(),
        (StatusStyle::Text, Ok(code)) => {
            format!("error executing command in container: command terminated with non-zero exit code: exit status {code}").into_bytes()
        }
        (StatusStyle::Text, Err(message)) => {
            message.clone().into_bytes()
        }
    }
}

fn json_status(outcome: &Outcome) -> Value {
    match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(message) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {message}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": message}]},
            "code": 500,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_in_both_styles() {
        assert_eq!(encode(&Ok(0), StatusStyle::Text), b"");
        let ok: Value = serde_json::from_slice(&encode(&Ok(0), StatusStyle::Json)).unwrap();
        assert_eq!(ok["status"], "Success");
        let failed: Value = serde_json::from_slice(&encode(&Ok(42), StatusStyle::Json)).unwrap();
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "42"}));
        let lost: Value = serde_json::from_slice(&encode(&Err("gone".into()), StatusStyle::Json)).unwrap();
        assert_eq!(lost["reason"], "InternalError");
    }
}
