//! `GET /metrics`: the text of a scrape, a piece at a time.
//!
//! A reader that is slow, or many of them, keep no thread and no long text: no more than some pieces wait for each, and all
//! scrapes take turns at one thread.

use std::io;
use std::time::Duration;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::lines::{self, Piece};
use super::types::{ErrorBody, ErrorKind};
use crate::daemon::Handle;
use crate::metrics::{self, Scrape};

/// Who has this makes a piece, or has the control task begin: one scrape at a time, by whichever address it comes.
pub(super) static TURN: Semaphore = Semaphore::const_new(1);
/// Within this time the text must be read, or the answer is broken off: the services of then are kept for it, and
/// their real servers' numbers may be others' by now. Prometheus has 10 s unless it is told otherwise.
const TIME: Duration = Duration::from_secs(30);

/// All metrics, to whom asked.
pub(super) async fn answer(control: &Handle) -> Result<Response, ErrorBody> {
    let turn = TURN.acquire().await;
    let scrape = control.ask(|control| Scrape::of(control)).await?;
    let (first, scrape) = piece(scrape).await?;
    drop(turn);
    let Some(scrape) = scrape else {
        return Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], first).into_response());
    };
    let (pieces, answer) = lines::answer_of(metrics::CONTENT_TYPE);
    tokio::spawn(async move {
        let sent = timeout(TIME, send(first, scrape, &pieces)).await;
        let failed = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = failed {
            // What is under way can only be broken off. Nobody may be reading any more.
            let _ = pieces.send(Err(error)).await;
        }
    });
    Ok(answer)
}

async fn send(first: String, scrape: Scrape, pieces: &mpsc::Sender<Piece>) -> io::Result<()> {
    let (mut text, mut rest) = (first, Some(scrape));
    loop {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        pieces.send(Ok(text.into())).await.map_err(gone)?;
        let Some(scrape) = rest else { return Ok(()) };
        let _turn = TURN.acquire().await;
        (text, rest) = piece(scrape).await.map_err(|error| io::Error::other(error.message))?;
    }
}

/// The next piece, and the scrape unless that was the last.
async fn piece(mut scrape: Scrape) -> Result<(String, Option<Scrape>), ErrorBody> {
    let made = tokio::task::spawn_blocking(move || {
        let text = scrape.piece();
        (text, (!scrape.is_over()).then_some(scrape))
    });
    made.await.map_err(|error| ErrorBody::new(ErrorKind::Internal, error.to_string()))
}
