//! Clients and servers: what they open, and what they send. What they expect of everything that reaches them is [`crate::arrivals`]'s.

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::conn::{ASK_PATIENCE, ASK_TRIES, Ask, Conn, Outcome, Talk};
use crate::director::Subject;
use crate::draw::mix;
use crate::ledger::Key;
use crate::map::{ECHO_PORT, PLACES, SERVICE_PORT, place};
use crate::tags::{NONE, Sent, Way};
use crate::tcp::{self, End, Life, Terms};
use crate::violation::Checked;
use crate::wire::{Body, Ip};
use crate::world::World;

/// How a real server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServerState {
    Up,
    /// Says nothing, until then.
    Dead(u64),
    /// Takes no new connection, until then.
    Refuses(u64),
}

/// A connection's packets may be under way for so long after its end.
const LINGER: u64 = 3_000_000;
/// The client's ports begin there.
const FIRST_PORT: u16 = 1024;

/// An end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Client,
    Server,
}

impl<L: Subject> World<L> {
    pub(crate) fn change_server(&mut self, host: usize, until: u64) {
        let state = if self.draw.coin() { ServerState::Dead(until) } else { ServerState::Refuses(until) };
        self.servers[host] = state;
        let is_dead = matches!(state, ServerState::Dead(_));
        self.note("server fails", ("host dead until", [host as u64, u64::from(is_dead), until, 0]));
    }

    pub(crate) fn server_state(&self, host: usize) -> ServerState {
        match self.servers[host] {
            ServerState::Dead(until) | ServerState::Refuses(until) if until <= self.now => ServerState::Up,
            state => state,
        }
    }

    /// Opens connections until there are as many as wanted.
    pub(crate) fn open_some(&mut self) {
        if self.is_quiet {
            return;
        }
        for _ in 0..8 {
            if self.conns.open >= self.shape.load {
                return;
            }
            self.open();
        }
    }

    fn open(&mut self) {
        let client = self.draw.pick(&self.plan.clients);
        let is_clean = self.shape.is_clean();
        let kind = self.draw.below(20);
        let n = self.draw.below(PLACES as u64) as usize;
        let (is_tcp, address) = place(n);
        let has = self.control.has(n);
        let is_ipv6 = address.is_ipv6();
        let direct = self.draw.pick(&self.plan.servers);
        let direct = self.plan.hosts[direct].address(is_ipv6);
        // To a service; to a port without one; directly to a server's own address; a ping to either.
        let (to, place, is_tcp, is_echo) = match kind {
            0 => ((address, 81), None, true, false),
            1 => ((direct, ECHO_PORT), None, is_tcp, false),
            2 => ((address, 0), None, false, true),
            3 => ((direct, 0), None, false, true),
            _ if has => ((address, SERVICE_PORT), Some(n), is_tcp, false),
            _ if is_clean => return,
            _ => ((address, SERVICE_PORT), Some(n), is_tcp, false),
        };
        let port = FIRST_PORT + self.draw.below(u64::from(self.shape.client_ports)) as u16;
        if self.by_client.contains_key(&(client, port, is_tcp)) {
            return;
        }
        self.serial += 1;
        let serial = self.serial;
        let binding = place
            .map_or(NONE, |place| self.ledger.open(Key { client: client as u32, port, place: place as u16 }));
        let ttl = if !is_clean && self.draw.below(100) == 0 { self.draw.between(1, 2) as u8 } else { 64 };
        let key = mix(u64::from(serial) << 20 ^ 0x5eed);
        let talk = if is_tcp {
            let long = self.draw.below(10) == 0;
            let terms = Terms {
                key,
                request: self.draw.between(1, if long { 20_000 } else { 400 }) as u32,
                response: self.draw.between(0, if long { 60_000 } else { 2000 }) as u32,
                mss: self.draw.pick(&[100, 536, 1200, 1430]),
                window: self.draw.pick(&[600, 3000, 20_000]),
                server_closes_first: self.draw.coin(),
            };
            let client = End::client(&terms, mix(key) as u32, self.now);
            Talk::Tcp { terms, client, server: None }
        } else {
            // The twin's Linux puts no pieces together.
            let most = if self.draw.below(8) == 0 && !is_echo { 3000 } else { 300 };
            let lens = (self.draw.between(8, most) as u16, self.draw.between(8, most) as u16);
            Talk::Ask(Ask {
                is_echo,
                is_summed: is_ipv6 || is_echo || self.draw.below(4) > 0,
                key,
                round: 0,
                rounds: self.draw.between(1, 12) as u32,
                lens: if is_echo { (lens.0, lens.0) } else { lens },
                tries: 0,
                deadline: self.now,
            })
        };
        let conn = Conn {
            serial,
            client,
            port,
            to,
            place,
            binding,
            ttl,
            talk,
            mtu: self.draw.pick(&[1500, 1500, 1280]),
            opened: self.now,
            alarm: u64::MAX,
            ended: None,
            server: None,
        };
        let at = self.conns.add(conn);
        self.by_client.insert((client, port, is_tcp), at);
        let detail = [serial.into(), client as u64, port.into(), place.map_or(999, |place| place as u64)];
        self.note("open", ("connection client port service", detail));
        self.pump(at);
    }

    /// Sees to it that the connection is looked at when its next deadline is over.
    pub(crate) fn arm(&mut self, at: u32) {
        let Some(next) = self.next_deadline(at).map(|next| next.max(self.now + 1)) else { return };
        let Some(conn) = self.conns.get_mut(at).filter(|conn| next < conn.alarm) else { return };
        conn.alarm = next;
        self.timers.push(Reverse((next, at, conn.serial)));
    }

    /// Sends all that both ends of a connection have to send.
    fn pump(&mut self, at: u32) {
        self.pump_side(at, Side::Client);
        self.pump_side(at, Side::Server);
        self.settle(at);
        self.arm(at);
    }

    pub(crate) fn pump_side(&mut self, at: u32, side: Side) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(at) else { return };
        match &mut conn.talk {
            Talk::Tcp { client, server, .. } => {
                let end = match side {
                    Side::Client => Some(client),
                    Side::Server => server.as_mut(),
                };
                let Some(end) = end else { return };
                let key = end.sends;
                let mut sends = std::mem::take(&mut self.sends);
                end.send(now, &mut sends);
                for send in sends.drain(..) {
                    self.send_segment(at, side, key, send);
                }
                self.sends = sends;
            }
            Talk::Ask(ask) if side == Side::Client && conn.ended.is_none() && ask.deadline <= now => {
                if ask.tries == ASK_TRIES {
                    self.end(at, Outcome::GaveUp);
                    return;
                }
                ask.deadline = now + (ASK_PATIENCE << ask.tries);
                ask.tries += 1;
                let ask = *ask;
                self.ask(at, &ask);
            }
            Talk::Ask(_) => {}
        }
    }

    fn send_segment(&mut self, at: u32, side: Side, key: u64, send: tcp::Send) {
        let mut payload = [0; 1500];
        let payload = &mut payload[..send.len.into()];
        tcp::fill(key, send.offset.into(), payload);
        let Some(conn) = self.conns.get(at) else { return };
        let ttl = conn.ttl;
        let Some((host, src, dst, sport, dport)) = self.ends(at, side) else { return };
        let body = Body::Tcp {
            sport,
            dport,
            seq: send.seq,
            ack: send.ack,
            flags: send.flags,
            window: u16::MAX,
            options: &[],
            payload,
        };
        let ip = Ip { src, dst, ttl, id: 0, dont_fragment: true, options: 0 };
        self.send(host, &ip, &body, 2000, self.story(at, side, ttl, false));
    }

    /// Host, source, destination and ports of what one end sends.
    fn ends(&self, at: u32, side: Side) -> Option<(usize, IpAddr, IpAddr, u16, u16)> {
        let conn = self.conns.get(at)?;
        let is_ipv6 = conn.to.0.is_ipv6();
        let client = self.plan.hosts[conn.client].address(is_ipv6);
        match side {
            Side::Client => Some((conn.client, client, conn.to.0, conn.port, conn.to.1)),
            Side::Server => {
                let host = conn.server?;
                let (address, port) = self.plan.arrives_at(host, conn.place, conn.to);
                Some((host, address, client, port, conn.port))
            }
        }
    }

    pub(crate) fn story(&self, at: u32, side: Side, ttl: u8, is_unsummed: bool) -> Sent {
        let (serial, binding) = self.conns.get(at).map_or((0, NONE), |conn| (conn.serial, conn.binding));
        let way = if side == Side::Client { Way::Request } else { Way::Reply };
        Sent { conn: at, serial, binding, way, ttl, is_unsummed, ..Sent::JUNK }
    }

    /// The client asks.
    fn ask(&mut self, at: u32, ask: &Ask) {
        let payload = question(self.conns.get(at).map_or(0, |conn| conn.serial), ask, false, ask.lens.0);
        self.send_data(at, Side::Client, ask, &payload, ask.round);
    }

    pub(crate) fn send_data(&mut self, at: u32, side: Side, ask: &Ask, payload: &[u8], round: u32) {
        let Some(conn) = self.conns.get(at) else { return };
        let (mtu, ttl, id) = (conn.mtu, if side == Side::Client { conn.ttl } else { 64 }, conn.port);
        let Some((host, src, dst, sport, dport)) = self.ends(at, side) else { return };
        self.packet_ids += 1;
        let options = if self.packet_ids.is_multiple_of(13) { 1 } else { 0 };
        let ip = Ip { src, dst, ttl, id: self.packet_ids as u16, dont_fragment: false, options };
        let body = if ask.is_echo {
            Body::Echo { is_reply: side == Side::Server, id, seq: round as u16, payload }
        } else {
            Body::Udp { sport, dport, is_summed: ask.is_summed, payload }
        };
        self.send(host, &ip, &body, mtu, self.story(at, side, ttl, !ask.is_summed));
    }

    /// Timers that are due.
    pub(crate) fn wake(&mut self) -> Checked {
        while let Some(&Reverse((when, at, serial))) = self.timers.peek()
            && when <= self.now
        {
            self.timers.pop();
            let now = self.now;
            let is_it = |conn: &&mut Conn| conn.serial == serial && conn.alarm == when;
            let Some(conn) = self.conns.get_mut(at).filter(is_it) else { continue };
            conn.alarm = u64::MAX;
            if let Some(ended) = conn.ended
                && ended + LINGER <= now
            {
                self.forget(at);
                continue;
            }
            if let Talk::Tcp { client, server, .. } = &mut conn.talk {
                for end in [Some(client), server.as_mut()].into_iter().flatten() {
                    if end.deadline <= now {
                        end.time_out(now);
                    }
                }
            }
            self.pump(at);
        }
        Ok(())
    }

    fn next_deadline(&self, at: u32) -> Option<u64> {
        let conn = self.conns.get(at)?;
        if let Some(ended) = conn.ended {
            return Some(ended + LINGER);
        }
        Some(match &conn.talk {
            Talk::Tcp { client, server, .. } => {
                let server = server.as_ref().filter(|end| end.life == Life::Open).map(|end| end.deadline);
                server.map_or(client.deadline, |deadline| deadline.min(client.deadline))
            }
            Talk::Ask(ask) => ask.deadline,
        })
    }

    /// Notes when the client's end is over.
    pub(crate) fn settle(&mut self, at: u32) {
        let Some(conn) = self.conns.get(at) else { return };
        if let (Talk::Tcp { client, .. }, None) = (&conn.talk, conn.ended) {
            match client.life {
                Life::Open => {}
                Life::Done => self.end(at, Outcome::Done),
                Life::Reset => self.end(at, Outcome::Reset),
                Life::GaveUp => self.end(at, Outcome::GaveUp),
            }
        }
    }

    pub(crate) fn end(&mut self, at: u32, outcome: Outcome) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(at) else { return };
        conn.ended = Some(now);
        conn.alarm = u64::MAX;
        let (serial, port, opened) = (conn.serial, conn.to.1, conn.opened);
        self.conns.open -= 1;
        let word = match outcome {
            Outcome::Done => {
                self.stats.done += 1;
                "done"
            }
            Outcome::Reset => {
                self.stats.reset += 1;
                "reset"
            }
            Outcome::GaveUp => {
                self.stats.gave_up += 1;
                "given up"
            }
        };
        self.watch.ended(serial, port, outcome);
        self.note(word, ("connection micros", [serial.into(), now - opened, 0, 0]));
        self.arm(at);
    }

    fn forget(&mut self, at: u32) {
        let Some(conn) = self.conns.remove(at) else { return };
        let is_tcp = matches!(conn.talk, Talk::Tcp { .. });
        self.by_client.remove(&(conn.client, conn.port, is_tcp));
    }
}

/// Question or answer `round` of a connection: its number, the round, and bytes that are its own.
pub(crate) fn question(serial: u32, ask: &Ask, is_answer: bool, len: u16) -> Vec<u8> {
    let mut payload = vec![0; len.into()];
    tcp::fill(mix(ask.key ^ u64::from(ask.round) << 1 ^ u64::from(is_answer)), 0, &mut payload);
    payload[..4].copy_from_slice(&serial.to_be_bytes());
    payload[4..8].copy_from_slice(&ask.round.to_be_bytes());
    payload
}
