//! The backend: ports with a ring each, and who puts packets into it.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use lb_core::ids::PortId;
use lb_core::packet::Packet;
use lb_core::path::{BURST, Burst};
use lb_dataplane::{Backend, Device, Pool};

use crate::frame::BenchFrame;
use crate::traffic::{Flood, Traffic, WAN};
use crate::tsc;

/// Packets that a port's ring holds.
const RING: usize = 1024;
/// When there is more between two looks at a port, the machine did something else meanwhile.
const LONGEST_NS: f64 = 1e5;

pub(super) struct InYard<T>(PhantomData<T>);

impl<T: Traffic + Send + 'static> Backend for InYard<T> {
    type Packet = BenchFrame;
    type Device = Line<T>;
    type Pool = NoFrames;

    fn enter_thread() -> Result<(), String> {
        Ok(())
    }

    fn leave_thread() {}
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Of an open connection.
    Known,
    /// Begins one.
    New,
}

/// What comes to the ports.
#[derive(Clone, Copy)]
pub(super) enum Offer {
    /// What the traffic's script says.
    Script,
    /// As much as is taken.
    Endless(Kind),
    /// What the sources send meanwhile.
    Timed,
}

/// The worker's time, in cycles: what it takes to make packets is not in it.
pub(super) struct Clock {
    stood: u64,
    looked: u64,
    /// Between two looks, at most, and between the last two that were not further apart.
    longest: u64,
    usual: u64,
}

impl Clock {
    fn new() -> Clock {
        let longest = (LONGEST_NS * tsc::per_nanosecond()) as u64;
        Clock { stood: 0, looked: tsc::now(), longest, usual: longest / 10 }
    }

    pub(super) fn now(&mut self) -> u64 {
        let now = tsc::now();
        let since = now - self.looked;
        if since <= self.longest {
            self.usual = since;
        }
        self.stood += since - self.usual;
        self.looked = now;
        now - self.stood
    }

    /// Nothing since it was last looked at counts.
    fn go_on(&mut self) {
        let now = tsc::now();
        self.stood += now - self.looked;
        self.looked = now;
    }
}

/// What comes at equal distances, in cycles.
struct Source {
    kind: Kind,
    apart: f64,
    next: f64,
}

#[derive(Default)]
struct Ring {
    sources: Vec<Source>,
    waiting: VecDeque<Kind>,
}

impl Ring {
    /// Puts in what comes until `now`, as far as there is room; returns how much of it is of open connections.
    fn come(&mut self, now: f64) -> u64 {
        let mut known = 0;
        loop {
            let due = self.sources.iter_mut().min_by(|a, b| a.next.total_cmp(&b.next));
            let Some(source) = due.filter(|source| source.next <= now) else { return known };
            source.next += source.apart;
            known += u64::from(source.kind == Kind::Known);
            if self.waiting.len() < RING {
                self.waiting.push_back(source.kind);
            }
        }
    }
}

/// What the ports have in common.
pub(super) struct Yard<T> {
    pub(super) traffic: T,
    flood: Flood,
    pub(super) offer: Offer,
    pub(super) clock: Clock,
    /// By port.
    rings: [Ring; 2],
    /// Packets that the worker got.
    pub(super) given: u64,
    /// Packets of open connections that came in this window, whether there was room or not.
    pub(super) known_came: u64,
}

impl<T: Traffic> Yard<T> {
    pub(super) fn new(traffic: T, flood: Flood) -> Yard<T> {
        Yard {
            traffic,
            flood,
            offer: Offer::Script,
            clock: Clock::new(),
            rings: [Ring::default(), Ring::default()],
            given: 0,
            known_came: 0,
        }
    }

    /// From now on packets come so far apart: of open connections to each port, new ones to the clients'. Returns when that is.
    pub(super) fn begin_window(&mut self, known: f64, new: Option<f64>) -> u64 {
        let now = self.clock.now();
        let source = |kind, apart| Source { kind, apart, next: now as f64 };
        self.rings = [Ring::default(), Ring::default()];
        self.rings.iter_mut().for_each(|ring| ring.sources.push(source(Kind::Known, known)));
        self.rings[WAN.index()].sources.extend(new.map(|apart| source(Kind::New, apart)));
        (self.offer, self.known_came) = (Offer::Timed, 0);
        now
    }

    fn give(&mut self, port: PortId, burst: &mut Burst<BenchFrame>) {
        let now = self.clock.now();
        let count = match self.offer {
            Offer::Script => self.traffic.count(port),
            Offer::Endless(Kind::New) if port != WAN => 0,
            Offer::Endless(_) => BURST,
            Offer::Timed => {
                let ring = &mut self.rings[port.index()];
                self.known_came += ring.come(now as f64);
                ring.waiting.len().min(BURST)
            }
        };
        for _ in 0..count {
            let kind = match self.offer {
                Offer::Script => Kind::Known,
                Offer::Endless(kind) => kind,
                Offer::Timed => self.rings[port.index()].waiting.pop_front().unwrap_or(Kind::Known),
            };
            let mut frame = BenchFrame::new();
            frame.reset(port);
            if let Some(bytes) = frame.data_mut().first_chunk_mut() {
                match kind {
                    Kind::Known => self.traffic.write(port, bytes),
                    Kind::New => self.flood.write(bytes),
                }
            }
            burst.push(frame);
        }
        self.given += count as u64;
        self.clock.go_on();
    }
}

/// A port.
pub(super) struct Line<T> {
    port: PortId,
    yard: Arc<Mutex<Yard<T>>>,
}

impl<T> Line<T> {
    pub(super) fn new(port: PortId, yard: Arc<Mutex<Yard<T>>>) -> Line<T> {
        Line { port, yard }
    }
}

impl<T: Traffic> Device<BenchFrame> for Line<T> {
    fn receive(&mut self, burst: &mut Burst<BenchFrame>) {
        self.yard.lock().unwrap_or_else(PoisonError::into_inner).give(self.port, burst);
    }

    fn transmit(&mut self, burst: &mut Burst<BenchFrame>) {
        burst.clear();
    }
}

pub(super) struct NoFrames;

impl Pool<BenchFrame> for NoFrames {
    fn allocate(&mut self) -> Option<BenchFrame> {
        None
    }
}
