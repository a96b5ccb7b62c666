//! `GET /v1/trace`: the roads of real packets, as they go.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use lb_core::trace::Trace;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::explain::{Road, TraceLine, TraceQuery};
use super::lines::{self, Piece};
use super::server::{Api, Asked, bad_request, read_query};
use super::types::ErrorBody;
use crate::daemon::Handle;

/// Looks for new roads so often; an empty line tells that there is none yet, and finds out whether somebody still reads.
const EVERY: Duration = Duration::from_millis(200);
/// How long, when nothing is said, and at most; seconds.
const SECONDS: u32 = 60;
const MOST_SECONDS: u32 = 3_600;

/// What becomes of real packets that fit, one JSON object a line; an empty line now and then. One trace at a time.
#[utoipa::path(get, path = "/v1/trace", params(TraceQuery), responses(
    (status = 200, content_type = "application/x-ndjson", body = TraceLine),
    (status = 400, description = "no such packets: the message says what can be", body = ErrorBody),
    (status = 503, description = "there is a trace already", body = ErrorBody),
))]
pub(super) async fn trace(State(api): State<Api>, asked: Asked<TraceQuery>) -> Result<Response, ErrorBody> {
    let asked = read_query(asked)?;
    let seconds = asked.seconds.unwrap_or(SECONDS);
    if !(1..=MOST_SECONDS).contains(&seconds) {
        return Err(bad_request(format!("{seconds} seconds: expected 1..={MOST_SECONDS}")));
    }
    let trace = api.control.ask(move |control| control.begin_trace(&asked)).await??;
    let (pieces, answer) = lines::answer();
    tokio::spawn(async move {
        tell(&api.control, &trace, Duration::from_secs(seconds.into()), &pieces).await;
        // When the daemon stops there is nothing left to end.
        let _ = api.control.ask(move |control| control.end_trace(&trace)).await;
    });
    Ok(answer)
}

/// Gives roads on until the trace is over, its time is, or nobody reads any more.
async fn tell(control: &Handle, trace: &Arc<Trace>, time: Duration, pieces: &mpsc::Sender<Piece>) {
    let end = Instant::now() + time;
    loop {
        // Asked first: what was kept before is then read.
        let is_over = trace.is_over() || Instant::now() >= end;
        let taken = trace.clone();
        let Ok(roads) = control.ask(move |control| control.traced(&taken)).await else { return };
        let mut lines: Vec<TraceLine> =
            roads.into_iter().map(|road: Road| TraceLine::Road(Box::new(road))).collect();
        if let (true, packets @ 1..) = (is_over, trace.skipped()) {
            lines.push(TraceLine::Skipped { packets });
        }
        if pieces.send(Ok(text(&lines).into())).await.is_err() || is_over {
            return;
        }
        sleep(EVERY).await;
    }
}

/// A line each; an empty one when there is none.
fn text(lines: &[TraceLine]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines {
        // What is our own can be written as JSON.
        let _ = serde_json::to_writer(&mut text, line);
        text.push(b'\n');
    }
    if text.is_empty() { vec![b'\n'] } else { text }
}
