//! An answer of lines, each a JSON object, that is sent as it is made.

use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::Serialize;
use tokio::sync::mpsc;

/// Pieces of an answer that wait for a slow reader.
const PIECES: usize = 4;
/// Bytes of a list that are sent at once.
const PIECE: usize = 32 * 1024;

pub(super) type Piece = io::Result<Bytes>;

/// The answer, and where its pieces go in; it ends when nobody has that any more.
pub(super) fn answer() -> (mpsc::Sender<Piece>, Response) {
    answer_of("application/x-ndjson")
}

/// The same with something else than such lines.
pub(super) fn answer_of(content_type: &'static str) -> (mpsc::Sender<Piece>, Response) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let body = Body::from_stream(Pieces(receiver));
    (sender, ([(header::CONTENT_TYPE, content_type)], body).into_response())
}

struct Pieces(mpsc::Receiver<Piece>);

impl Stream for Pieces {
    type Item = Piece;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.0.poll_recv(context)
    }
}

/// Lines on their way to a reader, from a thread that may wait for it.
pub(super) struct Lines {
    text: Vec<u8>,
    pieces: mpsc::Sender<Piece>,
}

impl Lines {
    pub(super) fn new(pieces: mpsc::Sender<Piece>) -> Lines {
        Lines { text: Vec::with_capacity(PIECE + 512), pieces }
    }

    /// Breaks off when the reader went away.
    pub(super) fn add(&mut self, line: &impl Serialize) -> ControlFlow<()> {
        if serde_json::to_writer(&mut self.text, line).is_err() {
            return ControlFlow::Break(());
        }
        self.text.push(b'\n');
        if self.text.len() < PIECE {
            return ControlFlow::Continue(());
        }
        match self.pieces.blocking_send(Ok(std::mem::take(&mut self.text).into())) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Sends what is left. An answer that is under way can only be broken off to say that something went wrong.
    pub(super) fn end(self, done: Result<(), String>) {
        let last = done.map(|()| self.text.into()).map_err(io::Error::other);
        let _ = self.pieces.blocking_send(last);
    }
}
