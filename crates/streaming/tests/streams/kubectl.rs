//! The real kubectl, where there is one (`KUBECTL` names another than that on the path), over both transports.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use crate::server::{self, DEADLINE, FLOOD};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const WEBSOCKETS: [&str; 2] = ["true", "false"];

fn kubectl(server: SocketAddr, home: &std::path::Path, websockets: &str, args: &[&str]) -> Option<Child> {
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let config = home.join("config");
    std::fs::write(&config, "apiVersion: v1\nkind: Config\n").unwrap();
    let child = Command::new(program)
        .arg(format!("--server=http://{server}"))
        .args(args)
        .env("HOME", home)
        .env("KUBECONFIG", config)
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    match child {
        Ok(child) => Some(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: no kubectl here");
            assert!(std::env::var_os("CI").is_none(), "in CI this test must run");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

async fn finish(mut child: Child, input: &[u8]) -> Output {
    let mut stdin = child.stdin.take().unwrap();
    let running = async {
        // A command that does not read its input may be over before it is written.
        let feeding = async {
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        tokio::join!(feeding, child.wait_with_output()).1.unwrap()
    };
    tokio::time::timeout(DEADLINE, running).await.unwrap()
}

#[tokio::test]
async fn exec_carries_streams_and_exit_codes() {
    let (server, home) = (server::start().await, tempfile::tempdir().unwrap());
    let big = vec![b'y'; 6 << 20];
    for websockets in WEBSOCKETS {
        let run = async |args: &[&str], input: &[u8]| {
            let args = [&["exec", "web"], args].concat();
            Some(finish(kubectl(server, home.path(), websockets, &args)?, input).await)
        };
        let Some(out) = run(&["-i", "--", "cat"], b"hello").await else { return };
        assert_eq!((out.status.code(), &out.stdout[..]), (Some(0), &b"hello"[..]), "{out:?}");
        let out = run(&["--", "exit"], b"").await.unwrap();
        let error = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), &out.stdout[..]), (Some(3), &b"out\n"[..]), "{error}");
        assert_eq!(error, "err\ncommand terminated with exit code 3\n");
        let out = run(&["--", "flood"], b"").await.unwrap();
        assert_eq!((out.status.code(), out.stdout.len()), (Some(0), FLOOD));
        let out = run(&["-i", "--", "count"], &big).await.unwrap();
        assert_eq!(
            (out.status.code(), &out.stdout[..]),
            (Some(0), &b"6291456"[..]),
            "websockets={websockets} {out:?}"
        );
        let out = run(&["-i", "--", "head"], &big).await.unwrap();
        assert_eq!((out.status.code(), &out.stdout[..]), (Some(0), &b"yyyy"[..]), "{out:?}");
        let out = run(&["--", "broken"], b"").await.unwrap();
        let error = String::from_utf8(out.stderr).unwrap();
        assert!(error.contains("Internal error occurred: no such container"), "{error}");
    }
}

#[tokio::test]
async fn port_forward_carries_many_connections() {
    let (server, home) = (server::start().await, tempfile::tempdir().unwrap());
    let echo = server::start_echo().await;
    for websockets in WEBSOCKETS {
        let args = ["port-forward", "pod/web", &format!(":{echo}"), "--address=127.0.0.1"];
        let Some(mut child) = kubectl(server, home.path(), websockets, &args) else { return };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let address = line.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).unwrap().to_owned();
        let mut connections = Vec::new();
        for turn in 0..20 {
            let mut connection = TcpStream::connect(&address).await.unwrap();
            connection.write_all(format!("turn {turn}").as_bytes()).await.unwrap();
            connections.push((turn, connection));
        }
        let big = vec![b'z'; 1 << 20];
        for (turn, connection) in connections {
            let (mut reader, mut writer) = connection.into_split();
            let mut got = Vec::new();
            let sending = async {
                writer.write_all(&big).await.unwrap();
                drop(writer);
            };
            let both = async { tokio::join!(sending, reader.read_to_end(&mut got)).1.unwrap() };
            tokio::time::timeout(DEADLINE, both).await.unwrap();
            assert!(got.starts_with(format!("echo:turn {turn}z").as_bytes()));
            assert!(got.len() > big.len());
        }
        child.kill().await.unwrap();
    }
}
