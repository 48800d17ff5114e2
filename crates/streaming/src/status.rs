//! How the end of a command is told to the client on the error channel.

use serde_json::json;

/// How much the agreed protocol lets the error channel say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusForm {
    /// Before v4: nothing for success, else a plain message.
    Text,
    /// From v4 on: a `v1.Status` either way, which carries the exit code.
    Json,
}

/// The bytes for the error channel. `ended` is the exit code, or why the command could not run.
pub(crate) fn report(ended: &Result<i32, String>, form: StatusForm) -> Vec<u8> {
    let (message, mut status) = match ended {
        Ok(0) if form == StatusForm::Text => return Vec::new(),
        Ok(0) => return json!({"metadata": {}, "status": "Success"}).to_string().into_bytes(),
        Ok(code) => (
            format!("command terminated with non-zero exit code: exit status {code}"),
            json!({
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
        ),
        Err(why) => (
            format!("Internal error occurred: {why}"),
            json!({"reason": "InternalError", "details": {"causes": [{"message": why}]}, "code": 500}),
        ),
    };
    if form == StatusForm::Text {
        return message.into_bytes();
    }
    status["metadata"] = json!({});
    status["status"] = json!("Failure");
    status["message"] = json!(message);
    status.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn reports_carry_the_exit_code_where_the_protocol_can() {
        let text = |ended| String::from_utf8(report(&ended, StatusForm::Text)).unwrap();
        assert_eq!(text(Ok(0)), "");
        assert_eq!(text(Ok(3)), "command terminated with non-zero exit code: exit status 3");
        assert_eq!(text(Err("no such container".into())), "Internal error occurred: no such container");
        let json = |ended| serde_json::from_slice::<Value>(&report(&ended, StatusForm::Json)).unwrap();
        assert_eq!(json(Ok(0))["status"], "Success");
        let failed = json(Ok(3));
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
        assert_eq!(failed["message"], "command terminated with non-zero exit code: exit status 3");
        let broken = json(Err("boom".into()));
        assert_eq!((broken["reason"].as_str(), broken["code"].as_i64()), (Some("InternalError"), Some(500)));
    }
}
