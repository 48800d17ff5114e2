//! Enough of a shell to look around in a container that holds nothing else.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::{dns, http};

type Outcome = Result<String, String>;

/// Runs one command by name, as `/bin/<name>` or from the shell.
pub fn command(name: &str, args: &[String]) -> ExitCode {
    if name == "sh" {
        return match args {
            [flag, script, ..] if flag == "-c" => script_code(script),
            _ => interactive(),
        };
    }
    report(&run(name, args))
}

fn report(outcome: &Outcome) -> ExitCode {
    match outcome {
        Ok(text) => {
            print!("{text}");
            let _ = std::io::stdout().flush();
            ExitCode::SUCCESS
        }
        Err(text) => {
            if !text.is_empty() {
                eprintln!("{text}");
            }
            ExitCode::FAILURE
        }
    }
}

fn interactive() -> ExitCode {
    let input = std::io::stdin();
    let prompt = input.is_terminal();
    let mut code = ExitCode::SUCCESS;
    loop {
        if prompt {
            print!("{} # ", std::env::current_dir().unwrap_or_default().display());
            let _ = std::io::stdout().flush();
        }
        let mut line = String::new();
        match input.lock().read_line(&mut line) {
            Ok(0) | Err(_) => return code,
            Ok(_) => {}
        }
        match line.split_whitespace().next() {
            Some("exit") => return exit_code(&line),
            _ => code = script_code(line.trim()),
        }
    }
}

fn exit_code(line: &str) -> ExitCode {
    let number = line.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    ExitCode::from(number.unwrap_or(0u8))
}

/// `a; b && c || d`, quotes, `$NAME`, `$?`; no pipes or redirections.
fn script_code(script: &str) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let mut succeeded = true;
    for (joint, words) in parse(script) {
        let wanted = match joint {
            Joint::Always => true,
            Joint::And => succeeded,
            Joint::Or => !succeeded,
        };
        let Some((name, args)) = words.split_first().filter(|_| wanted) else { continue };
        match name.as_str() {
            "exit" => return exit_code(&words.join(" ")),
            "exec" if !args.is_empty() => return command(&args[0], &args[1..]),
            "sh" => return command(name, args),
            _ => {
                let outcome = run(name, args);
                succeeded = outcome.is_ok();
                code = report(&outcome);
            }
        }
    }
    code
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Joint {
    Always,
    And,
    Or,
}

fn parse(script: &str) -> Vec<(Joint, Vec<String>)> {
    let mut commands = vec![(Joint::Always, Vec::new())];
    let mut word = String::new();
    let mut quoted = false;
    let mut chars = script.chars().peekable();
    let mut quote = None;
    let end_word = |commands: &mut Vec<(Joint, Vec<String>)>, word: &mut String, quoted: &mut bool| {
        if (!word.is_empty() || *quoted)
            && let Some((_, words)) = commands.last_mut()
        {
            words.push(std::mem::take(word));
        }
        *quoted = false;
    };
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                quoted = true;
            }
            (None | Some('"'), '$') => {
                let mut name = String::new();
                while let Some(next) = chars.next_if(|n| n.is_alphanumeric() || *n == '_') {
                    name.push(next);
                }
                word.push_str(&std::env::var(&name).unwrap_or_default());
            }
            (None, ' ' | '\t') => end_word(&mut commands, &mut word, &mut quoted),
            (None, ';' | '\n' | '&' | '|') => {
                end_word(&mut commands, &mut word, &mut quoted);
                let doubled = chars.next_if_eq(&c).is_some();
                let joint = match (c, doubled) {
                    ('&', true) => Joint::And,
                    ('|', true) => Joint::Or,
                    _ => Joint::Always,
                };
                commands.push((joint, Vec::new()));
            }
            (_, c) => word.push(c),
        }
    }
    end_word(&mut commands, &mut word, &mut quoted);
    commands.retain(|(_, words)| !words.is_empty());
    commands
}

fn run(name: &str, args: &[String]) -> Outcome {
    let operands: Vec<&str> = args.iter().map(String::as_str).filter(|a| !a.starts_with('-')).collect();
    match name.rsplit('/').next().unwrap_or(name) {
        "ls" => list(operands.first().copied().unwrap_or("."), args.iter().any(|a| a.starts_with("-l"))),
        "cat" => operands.iter().map(|path| read(path)).collect(),
        "env" => Ok(std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect()),
        "ps" => Ok(processes()),
        "get" | "wget" | "curl" => http::get(operands.last().ok_or("usage: get URL")?),
        "nslookup" => nslookup(&operands),
        "echo" => Ok(args.join(" ") + "\n"),
        "hostname" => Ok(crate::state::hostname() + "\n"),
        "id" => read("/proc/self/status").map(|status| identity(&status)),
        "pwd" => Ok(format!("{}\n", std::env::current_dir().unwrap_or_default().display())),
        "cd" => {
            let to = operands.first().copied().unwrap_or("/");
            std::env::set_current_dir(to).map(|()| String::new()).map_err(|e| format!("cd: {to}: {e}"))
        }
        "sleep" => {
            let seconds: f64 = operands.first().and_then(|s| s.parse().ok()).ok_or("usage: sleep SECONDS")?;
            std::thread::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
            Ok(String::new())
        }
        "true" | ":" => Ok(String::new()),
        "false" => Err(String::new()),
        "help" => {
            Ok("cat cd echo env exit get hostname id ls nslookup ps pwd sh sleep true false\n".to_owned())
        }
        other => Err(format!("sh: {other}: not found (try help)")),
    }
}

fn read(path: &str) -> Outcome {
    let bytes = std::fs::read(path).map_err(|e| format!("cat: {path}: {e}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn list(path: &str, long: bool) -> Outcome {
    let fail = |e: std::io::Error| format!("ls: {path}: {e}");
    if std::fs::metadata(path).map_err(fail)?.is_file() {
        return Ok(format!("{path}\n"));
    }
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let meta = entry.metadata().ok();
        let directory = meta.as_ref().is_some_and(std::fs::Metadata::is_dir);
        let size = meta.map_or(0, |m| m.len());
        let mark = if directory { "/" } else { "" };
        lines.push(if long { format!("{name}{mark}\t{size}\n") } else { format!("{name}{mark}\n") });
    }
    lines.sort();
    Ok(lines.concat())
}

fn processes() -> String {
    let mut rows = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        rows.push((pid, line.trim_end().to_owned()));
    }
    rows.sort();
    let body: String = rows.iter().map(|(pid, line)| format!("{pid:>5} {line}\n")).collect();
    format!("  PID COMMAND\n{body}")
}

fn nslookup(operands: &[&str]) -> Outcome {
    let name = operands.first().ok_or("usage: nslookup NAME [TYPE]")?;
    let kind = operands.get(1).copied().unwrap_or("A");
    let records = dns::lookup(name, kind)?;
    Ok(records.iter().map(|r| format!("{} {} {}\n", r.name, r.kind, r.data)).collect())
}

fn identity(status: &str) -> String {
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.split_whitespace().nth(1)).unwrap_or("?").to_owned()
    };
    let groups =
        status.lines().find_map(|l| l.strip_prefix("Groups:")).unwrap_or("").trim().replace(' ', ",");
    format!("uid={} gid={} groups={groups}\n", field("Uid:"), field("Gid:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_parsed() {
        let parsed = parse("echo 'a  b' \"c\"; false && echo no || echo yes");
        let words = |w: &[&str]| w.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let expected = vec![
            (Joint::Always, words(&["echo", "a  b", "c"])),
            (Joint::Always, words(&["false"])),
            (Joint::And, words(&["echo", "no"])),
            (Joint::Or, words(&["echo", "yes"])),
        ];
        assert_eq!(parsed, expected);
        assert!(run("nonsense", &[]).is_err());
    }
}
