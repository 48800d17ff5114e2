//! Failures as kubectl words them.

#[derive(Debug)]
pub enum Error {
    Client(amphipod_client::Error),
    /// Printed behind `error: `.
    Usage(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Client(amphipod_client::Error::Api(status)) if status.reason.is_empty() => {
                write!(f, "Error from server: {}", status.message)
            }
            Error::Client(amphipod_client::Error::Api(status)) if status.reason == "Invalid" => {
                write!(
                    f,
                    "{}",
                    status.message.split_once(" is invalid: ").map_or_else(
                        || format!("The request is invalid: {}", status.message),
                        |(what, why)| {
                            let (kind, name) = what.split_once(' ').unwrap_or((what, ""));
                            format!("The {kind} {name} is invalid: {why}")
                        },
                    )
                )
            }
            Error::Client(amphipod_client::Error::Api(status)) => {
                write!(f, "Error from server ({}): {}", status.reason, status.message)
            }
            Error::Client(other) => write!(f, "error: {other}"),
            Error::Usage(text) => write!(f, "error: {text}"),
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

pub fn usage(text: impl Into<String>) -> Error {
    Error::Usage(text.into())
}
