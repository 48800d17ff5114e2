//! Failures as kubectl words them.

use amphipod_api::status::Status;

#[derive(Debug)]
pub enum Error {
    Client(amphipod_client::Error),
    /// Printed behind `error: `.
    Usage(String),
    /// Printed as it is.
    Plain(String),
}

/// Several faults get a line each, one stands behind its object; the same text comes once.
fn invalid(status: &Status) -> String {
    let Some((what, why)) = status.message.split_once(" is invalid: ") else {
        return format!("The request is invalid: {}", status.message);
    };
    let (kind, name) = what.split_once(' ').unwrap_or((what, ""));
    let kind = kind.split('.').next().unwrap_or(kind);
    let mut causes: Vec<String> = Vec::new();
    for cause in status.details.iter().flat_map(|details| &details.causes) {
        let text = format!("{}: {}", cause.field, cause.message);
        if !causes.contains(&text) {
            causes.push(text);
        }
    }
    match causes.as_slice() {
        [] => format!("The {kind} {name} is invalid: {why}"),
        [one] => format!("The {kind} {name} is invalid: {one}"),
        several => format!("The {kind} {name} is invalid: \n* {}", several.join("\n* ")),
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Client(amphipod_client::Error::Api(status)) if status.reason.is_empty() => {
                write!(f, "Error from server: {}", status.message)
            }
            Error::Client(amphipod_client::Error::Api(status)) if status.reason == "Invalid" => {
                f.write_str(&invalid(status))
            }
            Error::Client(amphipod_client::Error::Api(status)) => {
                write!(f, "Error from server ({}): {}", status.reason, status.message)
            }
            Error::Client(other) => write!(f, "error: {other}"),
            Error::Usage(text) => write!(f, "error: {text}"),
            Error::Plain(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl From<amphipod_client::Error> for Error {
    fn from(error: amphipod_client::Error) -> Self {
        Error::Client(error)
    }
}
impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Error::Usage(status.message.clone()),
            other => Error::Usage(other.to_string()),
        }
    }
}
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Usage(error.to_string())
    }
}
impl From<http::Error> for Error {
    fn from(error: http::Error) -> Self {
        Error::Client(error.into())
    }
}
impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Usage(format!("the server's answer could not be read: {error}"))
    }
}

impl Error {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Client(error) if error.is_not_found())
    }
    /// What the server said, where it was the server that refused.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Error::Client(amphipod_client::Error::Api(status)) => Some(&status.message),
            _ => None,
        }
    }
}

/// A command that was not told what it is about.
pub fn nothing_named() -> Error {
    usage(
        "You must provide one or more resources by argument or filename.\n\
         Example resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   \
         '<resource> <name>'\n   '<resource>'",
    )
}

pub fn usage(text: impl Into<String>) -> Error {
    Error::Usage(text.into())
}
