//! What is wrong with a command line, in kubectl's words where it has words for it.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

fn context(error: &Error, kind: ContextKind) -> Vec<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text],
        Some(ContextValue::Strings(texts)) => texts.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

/// `kubectl create deployment`: the words of the line that are commands.
fn path(root: &Command, words: &[OsString]) -> String {
    let mut path = root.get_name().to_owned();
    let mut at = root;
    for word in words.iter().filter_map(|word| word.to_str()) {
        let Some(next) = at.find_subcommand(word) else { continue };
        path = format!("{path} {}", next.get_name());
        at = next;
    }
    path
}

fn unknown_flag(flag: &str) -> String {
    match flag.strip_prefix('-') {
        Some(short) if !short.starts_with('-') => format!("unknown shorthand flag: '{short}' in {flag}"),
        _ => format!("unknown flag: {flag}"),
    }
}

/// The whole text, or `None` where clap's own serves: help, and mistakes kubectl words no better.
pub fn text(root: &Command, words: &[OsString], error: &Error) -> Option<String> {
    let invalid = context(error, ContextKind::InvalidArg);
    let why = match error.kind() {
        ErrorKind::UnknownArgument => {
            let flag = invalid.first().filter(|flag| flag.starts_with('-'))?;
            format!("{}\nSee '{} --help' for usage.", unknown_flag(flag), path(root, words))
        }
        ErrorKind::MissingRequiredArgument => {
            let flags: Vec<String> = invalid
                .iter()
                .filter_map(|argument| argument.strip_prefix("--"))
                .map(|flag| format!("{:?}", flag.split([' ', '=']).next().unwrap_or(flag)))
                .collect();
            if flags.is_empty() {
                let path = path(root, words);
                format!("exactly one NAME is required, got 0\nSee '{path} -h' for help and examples")
            } else {
                format!("required flag(s) {} not set", flags.join(", "))
            }
        }
        ErrorKind::InvalidSubcommand => {
            let word = *context(error, ContextKind::InvalidSubcommand).first()?;
            format!("unknown command {word:?} for {:?}", path(root, words))
        }
        _ => return None,
    };
    Some(format!("error: {why}"))
}
