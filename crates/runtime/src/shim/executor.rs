//! The last step inside the container: find the executable, confine, execve.
//!
//! libcontainer's own executor words its errors for developers; users know the sentences of the original
//! runtimes (`exec: "foo": executable file not found in $PATH`), so this one says those.

use std::{
    ffi::CString,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability, CapsHashSet};
use libcontainer::{
    oci_spec::runtime::Spec,
    workload::{Executor, ExecutorError, ExecutorValidationError},
};

use super::{protocol::Confinement, seccomp::Filters};

/// Runs the `process` of the spec, confined.
#[derive(Clone, Default)]
pub struct ContainerExecutor {
    filters: Filters,
    /// Capabilities to keep. Loading a filter without `no_new_privs` needs CAP_SYS_ADMIN, which a container
    /// usually may not have: libcontainer is then told to leave more than in the end is kept.
    keep: Option<CapsHashSet>,
}

impl ContainerExecutor {
    /// Prepares the confinement the runtime asked for.
    pub fn new(confinement: Option<&Confinement>) -> Result<ContainerExecutor, String> {
        let Some(confinement) = confinement else { return Ok(ContainerExecutor::default()) };
        let filters = Filters::compile(&confinement.seccomp)?;
        let parse = |name: &String| name.parse::<Capability>().map_err(|error| error.to_string());
        let keep = confinement
            .keep_capabilities
            .as_ref()
            .map(|names| names.iter().map(parse).collect::<Result<CapsHashSet, String>>())
            .transpose()?;
        Ok(ContainerExecutor { filters, keep })
    }

    fn confine(&self) -> Result<(), String> {
        let text = |error: caps::errors::CapsError| format!("capabilities: {error}");
        if let Some(keep) = &self.keep {
            for capability in caps::read(None, CapSet::Bounding).map_err(text)?.difference(keep) {
                caps::drop(None, CapSet::Bounding, *capability).map_err(text)?;
            }
        }
        self.filters.apply()?;
        if let Some(keep) = &self.keep {
            caps::set(None, CapSet::Effective, keep).map_err(text)?;
            caps::set(None, CapSet::Permitted, keep).map_err(text)?;
        }
        Ok(())
    }
}

impl Executor for ContainerExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = process_args(spec).ok_or(ExecutorError::InvalidArg)?;
        let executable = find_executable(&args[0], path_variable(spec)).map_err(ExecutorError::Other)?;
        let path = CString::new(executable.into_os_string().into_encoded_bytes())
            .map_err(|_| ExecutorError::InvalidArg)?;
        let argv: Vec<CString> = args
            .iter()
            .map(|arg| CString::new(arg.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|_| ExecutorError::InvalidArg)?;
        self.confine().map_err(ExecutorError::Other)?;
        let error = match nix::unistd::execv(&path, &argv) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        Err(ExecutorError::Other(format!("exec {}: {}", path.to_string_lossy(), describe(error))))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let args = process_args(spec)
            .ok_or_else(|| ExecutorValidationError::ArgValidationError("no command specified".into()))?;
        find_executable(&args[0], path_variable(spec))
            .map(|_| ())
            .map_err(ExecutorValidationError::ArgValidationError)
    }
}

fn process_args(spec: &Spec) -> Option<&Vec<String>> {
    spec.process().as_ref()?.args().as_ref().filter(|args| !args.is_empty())
}

fn path_variable(spec: &Spec) -> &str {
    let variables = spec.process().as_ref().and_then(|process| process.env().as_ref());
    variables
        .and_then(|all| all.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")))
        .unwrap_or_default()
}

fn find_executable(name: &str, path_variable: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return check_executable(Path::new(name))
            .map(|()| PathBuf::from(name))
            .map_err(|why| format!("exec: {name:?}: {why}"));
    }
    let mut refused = None;
    for directory in path_variable.split(':') {
        let candidate =
            if directory.is_empty() { Path::new(".").join(name) } else { Path::new(directory).join(name) };
        match check_executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(why) if why == "permission denied" => refused = Some(why),
            Err(_) => {}
        }
    }
    let why = refused.unwrap_or_else(|| "executable file not found in $PATH".into());
    Err(format!("exec: {name:?}: {why}"))
}

fn check_executable(path: &Path) -> Result<(), String> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err("permission denied".into());
        }
        Err(error) => {
            let errno = error.raw_os_error().map_or(nix::errno::Errno::ENOENT, nix::errno::Errno::from_raw);
            return Err(format!("stat {}: {}", path.display(), describe(errno)));
        }
    };
    if metadata.is_dir() {
        return Err("is a directory".into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err("permission denied".into());
    }
    Ok(())
}

fn describe(error: nix::errno::Errno) -> String {
    let text = error.desc().to_string();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_or_explained() {
        let dir = tempfile::tempdir().unwrap();
        let tool = dir.path().join("tool");
        std::fs::write(&tool, "").unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
        let path = format!("/nonexistent:{}", dir.path().display());

        assert_eq!(find_executable("tool", &path), Ok(tool));
        assert_eq!(
            find_executable("nope", &path).unwrap_err(),
            "exec: \"nope\": executable file not found in $PATH"
        );
        assert_eq!(
            find_executable("/no/such", &path).unwrap_err(),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(find_executable("plain", &path).unwrap_err(), "exec: \"plain\": permission denied");
        assert_eq!(find_executable("/", &path).unwrap_err(), "exec: \"/\": is a directory");
    }
}
