//! The life of one upgraded connection: its two loops and the work it carries, and the order in which they end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::mux::Mux;

/// How long a connection may stay without a byte either way.
const IDLE_LIMIT: Duration = Duration::from_secs(4 * 60 * 60);
/// How long we wait for the peer to hang up after we said goodbye. Closing at once, with input of the peer still
/// unread, would make the kernel reset the connection and throw away output the peer has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// Fails all stream ends when the connection's task goes away, however it does.
struct CloseOnDrop(Arc<Mux>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Drives a connection until its work is done and told to the peer, or until the peer is gone, which cancels the
/// work. `reader` ends when the peer is gone; `writer` when all is sent or cannot be.
pub(crate) async fn drive(
    mux: Arc<Mux>,
    reader: impl Future<Output = ()>,
    writer: impl Future<Output = ()>,
    work: impl Future<Output = ()>,
) {
    let _close = CloseOnDrop(mux.clone());
    let (mut reader, mut writer, mut idle) = (pin!(reader), pin!(writer), pin!(idle(&mux)));
    tokio::select! {
        () = reader.as_mut() => return,
        () = writer.as_mut() => return,
        () = idle.as_mut() => return,
        () = work => mux.finish(),
    }
    tokio::select! {
        () = reader.as_mut() => return,
        () = idle => return,
        () = writer => {}
    }
    if tokio::time::timeout(LINGER, reader).await.is_err() {
        tracing::debug!("the peer did not hang up after the end of its streams");
    }
}

async fn idle(mux: &Mux) {
    let mut before = mux.activity();
    loop {
        tokio::time::sleep(IDLE_LIMIT).await;
        let now = mux.activity();
        if now == before {
            tracing::debug!("closing an idle streaming connection");
            return;
        }
        before = now;
    }
}
