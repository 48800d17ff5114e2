//! The libraries the client programs need, installed from their registries into a directory that
//! goes with the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program of this name on the PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|dir| dir.join(name)).find(|path| path.exists())
}

/// A tool this test drives is missing: a failure where every tool has to be, else a told skip.
pub fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} is not installed, and this test is nothing without it");
    eprintln!("skipped: {what} is not installed");
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn sources(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(folder)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", text(&output));
    text(&output)
}

/// A client program: its interpreter, and the directory its libraries are in.
pub struct Client {
    interpreter: PathBuf,
    home: tempfile::TempDir,
}

impl Client {
    pub fn python() -> Option<Self> {
        let python = program("python3")?;
        let home = tempfile::tempdir().unwrap();
        let environment = home.path().join("venv");
        run(Command::new(python).args(["-m", "venv"]).arg(&environment));
        let requirements = sources("python/requirements.txt");
        run(Command::new(environment.join("bin/pip")).args(["install", "-q", "-r"]).arg(requirements));
        Some(Client { interpreter: environment.join("bin/python"), home })
    }
    pub fn javascript() -> Option<Self> {
        let (interpreter, npm) = (program("node")?, program("npm")?);
        let home = tempfile::tempdir().unwrap();
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(sources("node").join(file), home.path().join(file)).unwrap();
        }
        run(Command::new(npm).args(["ci", "--no-audit", "--no-fund"]).current_dir(home.path()));
        Some(Client { interpreter, home })
    }
    /// Runs a program to its end, which it has to announce.
    pub fn run(&self, script: &Path, arguments: &[&Path]) {
        // Beside its libraries: JavaScript looks for them from where the file is.
        let copy = self.home.path().join(script.file_name().unwrap());
        std::fs::copy(script, &copy).unwrap();
        let said = run(Command::new(&self.interpreter).arg(copy).args(arguments));
        assert!(said.trim_end().ends_with(": ok"), "{}:\n{said}", script.display());
    }
}
