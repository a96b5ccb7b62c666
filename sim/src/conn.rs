//! What clients do: TCP connections, UDP questions and pings, each with both its ends.

use std::net::IpAddr;

use crate::tcp::{End, Terms};

/// A connection, from the client's first packet until nothing of it can be under way.
pub struct Conn {
    /// Unlike that of any other.
    pub serial: u32,
    /// The client's host, and its port (or ICMP id).
    pub client: usize,
    pub port: u16,
    pub to: (IpAddr, u16),
    /// The virtual service that it is for, if any; and its entry in the ledger.
    pub place: Option<usize>,
    pub binding: u32,
    pub ttl: u8,
    pub talk: Talk,
    /// Longest packet, in bytes of IP, that its ends send in one piece.
    pub mtu: usize,
    pub opened: u64,
    /// When its next timer goes off.
    pub alarm: u64,
    /// When it ended for the client.
    pub ended: Option<u64>,
    /// Where its last answer came from.
    pub server: Option<usize>,
}

pub enum Talk {
    Tcp { terms: Terms, client: End, server: Option<End> },
    Ask(Ask),
}

/// Questions and answers, one after the other: UDP, or ICMP echo.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub is_echo: bool,
    pub is_summed: bool,
    pub key: u64,
    /// The one that is asked now, and how many there are.
    pub round: u32,
    pub rounds: u32,
    pub lens: (u16, u16),
    pub tries: u32,
    pub deadline: u64,
}

/// A question is asked so often.
pub const ASK_TRIES: u32 = 5;
pub const ASK_PATIENCE: u64 = 500_000;

/// How it ended, for the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    Reset,
    GaveUp,
}

/// All connections, by place.
#[derive(Default)]
pub struct Conns {
    all: Vec<Option<Conn>>,
    free: Vec<u32>,
    pub open: usize,
}

impl Conns {
    pub fn add(&mut self, conn: Conn) -> u32 {
        self.open += 1;
        if let Some(at) = self.free.pop() {
            self.all[at as usize] = Some(conn);
            return at;
        }
        self.all.push(Some(conn));
        self.all.len() as u32 - 1
    }

    pub fn get(&self, at: u32) -> Option<&Conn> {
        self.all.get(at as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, at: u32) -> Option<&mut Conn> {
        self.all.get_mut(at as usize)?.as_mut()
    }

    pub fn remove(&mut self, at: u32) -> Option<Conn> {
        let conn = self.all.get_mut(at as usize)?.take()?;
        self.free.push(at);
        Some(conn)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.all.iter().flatten()
    }

    /// Connections that exist, those that ended and may still have packets under way included.
    pub fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
