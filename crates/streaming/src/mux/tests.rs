//! How streams share a connection.

use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn next(mux: &Mux) -> Option<Output> {
    mux.output().now_or_never()
}

fn data(stream: u32, length: usize, fin: bool) -> Output {
    Output::Data { stream, payload: vec![b'x'; length].into(), fin }
}

async fn fill(writer: &mut Outgoing) -> usize {
    let mut total = 0;
    while let Some(written) = writer.write(&[b'x'; PIECE]).now_or_never() {
        total += written.unwrap();
    }
    total
}

#[tokio::test]
async fn streams_take_turns_and_output_is_bounded() {
    let mux = Mux::new(false);
    let (_, mut one) = mux.open(1).unwrap();
    let (_, mut two) = mux.open(2).unwrap();
    assert_eq!(fill(&mut one).await, OUTPUT_LIMIT);
    two.write_all(b"x").await.unwrap();
    drop(two);
    assert_eq!(next(&mux), Some(data(1, PIECE, false)));
    assert_eq!(next(&mux), Some(data(2, 1, true)));
    assert_eq!(next(&mux), Some(data(1, PIECE, false)));
    assert_eq!(fill(&mut one).await, 2 * PIECE);
}

#[tokio::test]
async fn windows_bind_only_once_the_peer_counts_and_only_their_stream() {
    let mux = Mux::new(true);
    let (_, mut one) = mux.open(1).unwrap();
    let (_, mut two) = mux.open(3).unwrap();
    fill(&mut one).await;
    for _ in 0..3 {
        assert_eq!(next(&mux), Some(data(1, PIECE, false)));
    }
    mux.receive_credit(3, 10);
    assert_eq!(next(&mux), None, "stream 1 is beyond its window");
    two.write_all(b"x").await.unwrap();
    assert_eq!(next(&mux), Some(data(3, 1, false)));
    mux.receive_credit(1, CREDIT_STEP + 5);
    assert_eq!(next(&mux), Some(data(1, 5, false)));
    mux.receive_initial_window(64 * 1024 + 7);
    assert_eq!(next(&mux), Some(data(1, 7, false)));
}

#[tokio::test]
async fn input_is_bounded_and_credited_when_read_or_dropped() {
    let mux = Mux::new(true);
    let (mut incoming, _outgoing) = mux.open(1).unwrap();
    for _ in 0..INPUT_BUDGET / PIECE {
        assert!(mux.room().now_or_never().is_some());
        mux.receive(1, vec![0; PIECE].into());
    }
    assert!(mux.room().now_or_never().is_none());
    let mut buffer = vec![0; PIECE];
    incoming.read_exact(&mut buffer).await.unwrap();
    assert!(mux.room().now_or_never().is_some());
    assert_eq!(next(&mux), Some(Output::Credit { stream: 0, bytes: CREDIT_STEP }));
    assert_eq!(next(&mux), Some(Output::Credit { stream: 1, bytes: CREDIT_STEP }));
    assert_eq!(next(&mux), None);
    drop(incoming);
    assert!(mux.room().now_or_never().is_some());
    mux.receive(1, Bytes::from_static(b"late"));
    assert_eq!(mux.state.lock().unread, 0);
}

#[tokio::test]
async fn ends_resets_and_closing_reach_the_stream_ends() {
    let mux = Mux::new(true);
    let (mut incoming, mut outgoing) = mux.open(1).unwrap();
    mux.receive(1, Bytes::from_static(b"last"));
    mux.receive_end(1);
    let mut text = String::new();
    incoming.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "last");
    mux.receive_reset(1);
    assert_eq!(outgoing.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    drop((incoming, outgoing));
    assert!(mux.state.lock().streams.is_empty(), "a stream that is over is forgotten");
    let (mut incoming, _outgoing) = mux.open(3).unwrap();
    mux.close();
    assert_eq!(incoming.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn finishing_sends_what_is_queued_then_ends() {
    let mux = Mux::new(false);
    let (_, mut outgoing) = mux.open(1).unwrap();
    mux.greet(1);
    outgoing.write_all(b"xx").await.unwrap();
    assert!(mux.drained(&[1]).now_or_never().is_none());
    mux.finish();
    assert_eq!(next(&mux), Some(data(1, 0, false)));
    assert_eq!(next(&mux), Some(data(1, 2, true)));
    assert!(mux.drained(&[1]).now_or_never().is_some());
    assert_eq!(next(&mux), Some(Output::Finished { last: 1 }));
}
