//! Events of connections, from the workers' queue to all who read them. Workers tell nothing while nobody reads.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use lb_core::path::{FlowEvent, FlowEvents};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};

use super::conntrack::{ConntrackEvent, ExpectationEvent};
use super::lines::Piece;
use super::types::{ErrorBody, ErrorKind};

/// Events that may wait for the slowest reader.
const WAITING: usize = 16_384;
/// Events that are taken from the workers at once.
const BATCH: usize = 1024;
/// The pause when there are none.
const PAUSE: Duration = Duration::from_millis(5);

/// Who read events at a time. They stay, and so are counted apart from who list.
const LISTENERS: usize = 16;

type Sender = broadcast::Sender<Arc<Event>>;

/// What is told.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Event {
    Connection(ConntrackEvent),
    Expectation(ExpectationEvent),
}

impl Event {
    /// `None`: it is of a persistence template.
    fn of(event: &FlowEvent, at: u64) -> Option<Event> {
        let expectation = || ExpectationEvent::of(event, at).map(Event::Expectation);
        ConntrackEvent::of(event, at).map(Event::Connection).or_else(expectation)
    }
}

/// Where readers meet.
#[derive(Clone)]
pub(super) struct Hub {
    sender: Sender,
    places: Arc<Semaphore>,
    /// Whether events are being taken from the workers.
    is_pumping: Arc<Mutex<bool>>,
}

impl Hub {
    pub(super) fn new() -> Hub {
        Hub {
            sender: broadcast::channel(WAITING).0,
            places: Arc::new(Semaphore::new(LISTENERS)),
            is_pumping: Arc::default(),
        }
    }

    /// To be held while events are read.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, ErrorBody> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{LISTENERS} read events of connections, no more at a time");
            ErrorBody::new(ErrorKind::Unavailable, message)
        })
    }

    /// Gives events that fit to `pieces`, a line each, until its reader is gone. Must be called in a runtime.
    pub(super) fn read(
        &self,
        events: Arc<FlowEvents>,
        fits: impl Fn(&Event) -> bool + Send + 'static,
        pieces: mpsc::Sender<Piece>,
        place: OwnedSemaphorePermit,
    ) {
        let mut receiver = self.sender.subscribe();
        self.pump(&events);
        tokio::spawn(async move {
            let _place = place;
            loop {
                let event = tokio::select! {
                    event = receiver.recv() => event,
                    () = pieces.closed() => return,
                };
                let event = match event {
                    Ok(event) => event,
                    Err(RecvError::Lagged(lost)) => {
                        events.lost.add(lost);
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                };
                if !fits(&event) {
                    continue;
                }
                let Ok(mut line) = serde_json::to_vec(&*event) else { continue };
                line.push(b'\n');
                if pieces.send(Ok(Bytes::from(line))).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Has the workers tell, and takes what they tell, for as long as there are readers.
    fn pump(&self, events: &Arc<FlowEvents>) {
        let mut is_pumping = self.is_pumping.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *is_pumping, true) {
            return;
        }
        events.set_read(true);
        let (hub, events) = (self.clone(), events.clone());
        tokio::spawn(async move {
            while hub.goes_on(&events) {
                let batch = std::iter::from_fn(|| events.take()).take(BATCH);
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
                let sent = batch.filter_map(|event| Event::of(&event, at)).map(|event| {
                    // Without a reader it is nobody's.
                    let _ = hub.sender.send(Arc::new(event));
                });
                if sent.count() < BATCH {
                    tokio::time::sleep(PAUSE).await;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        });
    }

    /// Whether somebody reads; if not, nothing is told any more.
    fn goes_on(&self, events: &FlowEvents) -> bool {
        let mut is_pumping = self.is_pumping.lock().unwrap_or_else(PoisonError::into_inner);
        *is_pumping = self.sender.receiver_count() > 0;
        if !*is_pumping {
            events.set_read(false);
        }
        *is_pumping
    }
}
