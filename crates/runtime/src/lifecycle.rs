//! Starting, finding again what ran before, and taking everything away.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Paths},
    container::{manager::remove_files, record::Container},
    error::Error,
    image::{builtin, store::ImageStore},
    mounts,
    sandbox::record::{Sandbox, ids},
    service::{self, Services, streams::StreamServer},
    shim::io::ShortSocketPath,
    state::Runtime,
};

/// Open calls (watches, event streams) may finish for so long after the server was told to stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves CRI until cancelled. Running containers keep running.
pub async fn serve(config: Config, cancel: CancellationToken) -> Result<(), Error> {
    // Pulling over HTTPS needs a crypto provider; another part of the process may have chosen one already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let socket = config.socket.clone();
    let runtime = open(config).await?;
    let streams = StreamServer::start(Arc::clone(&runtime), cancel.clone()).await?;
    let listener = bind(&socket)?;
    tracing::debug!(socket = %socket.display(), "container runtime serving");
    let services = Services::new(runtime, streams);
    let bounded = async {
        cancel.cancelled().await;
        tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        () = service::serve(listener, services, cancel.clone()) => {}
        () = bounded => {}
    }
    drop(std::fs::remove_file(&socket));
    Ok(())
}

/// Prepares directories and images, and takes up what is on disk.
async fn open(config: Config) -> Result<Arc<Runtime>, Error> {
    let paths = Paths::new(&config);
    for directory in paths.all() {
        std::fs::create_dir_all(&directory).map_err(Error::io("create", directory))?;
    }
    let executable = seal(&config, &paths)?;
    let (store_paths, builtin_images) = (paths.clone(), config.builtin_images.clone());
    let load = move || {
        let store = ImageStore::open(store_paths)?;
        builtin::install(&store, &builtin_images)?;
        Ok::<_, Error>(Arc::new(store))
    };
    let images =
        tokio::task::spawn_blocking(load).await.map_err(|error| Error::Internal(error.to_string()))??;
    let runtime = Arc::new(Runtime::new(config, executable, images));
    restore(&runtime).await;
    Ok(runtime)
}

/// Binds the executable read-only at a place of our own and returns that place.
fn seal(config: &Config, paths: &Paths) -> Result<std::path::PathBuf, Error> {
    let target = paths.sealed_executable();
    mounts::detach(&target);
    std::fs::File::create(&target).map_err(Error::io("create", &target))?;
    let source = config
        .shim_executable
        .canonicalize()
        .map_err(Error::io("find the shim executable", &config.shim_executable))?;
    mounts::bind_read_only(&source, &target)?;
    Ok(target)
}

/// Reads sandboxes and containers back. What is incomplete was never promised to anyone and goes.
async fn restore(runtime: &Arc<Runtime>) {
    for id in ids(&runtime.paths.sandboxes()) {
        let directory = runtime.paths.sandbox(&id);
        let namespaces = runtime.paths.namespaces(&id);
        match Sandbox::load(id.clone(), directory.clone(), namespaces) {
            Ok(sandbox) => {
                runtime.insert_sandbox(sandbox);
            }
            Err(error) => {
                tracing::warn!(sandbox = id, %error, "removing an incomplete sandbox");
                remove_files(&directory);
                crate::sandbox::namespaces::release(&runtime.paths.namespaces(&id));
            }
        }
    }
    for id in ids(&runtime.paths.containers()) {
        let directory = runtime.paths.container(&id);
        match Container::load(id.clone(), directory.clone(), runtime.paths.shim_socket(&id)) {
            Ok(container) => runtime.adopt(container).await,
            Err(error) => {
                tracing::warn!(container = id, %error, "removing an incomplete container");
                remove_files(&directory);
            }
        }
    }
}

/// Binds the socket; one that nobody answers on any more is replaced.
fn bind(socket: &Path) -> Result<UnixListener, Error> {
    if let Some(parent) = socket.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    let short = ShortSocketPath::new(socket).map_err(Error::io("open directory of", socket))?;
    if std::os::unix::net::UnixStream::connect(short.path()).is_ok() {
        return Err(Error::FailedPrecondition(format!(
            "another container runtime serves on {}",
            socket.display()
        )));
    }
    match std::fs::remove_file(socket) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::Io { what: "remove", path: socket.into(), source });
        }
        _ => {}
    }
    UnixListener::bind(short.path()).map_err(Error::io("bind", socket))
}

/// Stops and removes every container and sandbox, and unmounts everything. Images stay: those that
/// were imported could not be had again. Nothing may be serving from the directories.
pub async fn cleanup(config: &Config) -> Result<(), Error> {
    let paths = Paths::new(config);
    if config.root_dir.exists() && paths.containers().exists() {
        let mut without_images = config.clone();
        without_images.builtin_images.clear();
        let runtime = open(without_images).await?;
        for sandbox in runtime.sandboxes() {
            if let Err(error) = runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, %error, "removing all the same");
            }
        }
        for container in runtime.containers() {
            runtime.remove_container(&container.id).await?;
        }
    }
    for point in [&config.root_dir, &config.state_dir].into_iter().flat_map(|d| mounts::mounted_below(d)) {
        mounts::detach(&point);
    }
    for directory in [&paths.containers(), &paths.sandboxes(), &config.state_dir] {
        match std::fs::remove_dir_all(directory) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Io { what: "remove", path: directory.clone(), source });
            }
            _ => {}
        }
    }
    drop(std::fs::remove_file(&config.socket));
    Ok(())
}
