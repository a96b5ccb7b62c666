//! What a seed draws before anything runs: how large the world is, and how bad.

use crate::draw::{Draw, PerMillion};

/// How a port's packets get to its queues, as different network cards do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// All to the first.
    First,
    /// By a hash of both ends, the same for both directions.
    Symmetric,
    /// By a hash of addresses and ports as they stand: each direction its own queue.
    Hashed,
    /// One after the other, whatever is in them.
    Turns,
}

#[derive(Clone, Debug)]
pub struct PortShape {
    pub queues: u16,
    /// Frames that a queue holds each way.
    pub capacity: usize,
    pub spread: Spread,
}

/// One interface of the director: a port, or a VLAN of one.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceShape {
    pub port: u16,
    pub vlan: u16,
    pub mtu: u16,
    pub is_outside: bool,
}

/// How often what goes wrong, in a million packets or, where it says so, steps.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    pub loss: PerMillion,
    pub duplicate: PerMillion,
    /// Delivered up to a second later than others.
    pub delay: PerMillion,
    pub corrupt: PerMillion,
    pub truncate: PerMillion,
    /// A router on the way cuts a packet into pieces.
    pub fragment: PerMillion,
    /// A router on the way answers with an ICMP error instead of passing a packet on.
    pub icmp: PerMillion,
    /// From here on by step. A port's link goes down for a while.
    pub link_down: PerMillion,
    /// A real server dies, refuses, or stalls for a while.
    pub server: PerMillion,
    /// A worker is not turned for a while.
    pub stall: PerMillion,
    /// No packet buffer is free for a while.
    pub dry: PerMillion,
    /// A neighbour is forgotten or moves.
    pub neighbour: PerMillion,
    /// The director is killed and started again.
    pub kill: PerMillion,
    /// Time jumps, up to an hour.
    pub jump: PerMillion,
    /// Frames that are no packets, or none that anybody asked for.
    pub junk: PerMillion,
}

/// The world that a seed makes.
#[derive(Clone, Debug)]
pub struct Shape {
    pub workers: u16,
    pub ports: Vec<PortShape>,
    pub interfaces: Vec<InterfaceShape>,
    /// Packets that a ring between two workers holds.
    pub ring: usize,
    pub twin_ring: usize,
    /// Of each worker.
    pub connections: u32,
    pub ipv6_connections: u32,
    /// Real servers at one time.
    pub server_ids: usize,
    pub clients: usize,
    pub servers: usize,
    /// Real servers are also routed directly and tunnelled, not masqueraded alone.
    pub has_other_methods: bool,
    /// Ports that each client takes its own from.
    pub client_ports: u16,
    /// Open connections that the clients try to have.
    pub load: usize,
    /// Microseconds that a step takes at most.
    pub pace: u64,
    /// Steps between changes of the configuration; 0: none.
    pub change_every: u64,
    pub faults: Faults,
}

/// Microseconds between steps at most, in the slowest worlds.
const SLOW: u64 = 20_000;

impl Shape {
    /// Nothing goes wrong but that directors die, and nothing is full: whatever is sent must arrive.
    pub fn is_clean(&self) -> bool {
        let Faults {
            loss,
            duplicate,
            delay,
            corrupt,
            truncate,
            fragment,
            icmp,
            link_down,
            server,
            stall,
            dry,
            neighbour,
            kill: _,
            jump,
            junk,
        } = self.faults;
        [
            loss, duplicate, delay, corrupt, truncate, fragment, icmp, link_down, server, stall, dry,
            neighbour, jump, junk,
        ]
        .iter()
        .all(|&rate| rate == 0)
            && self.change_every == 0
            // Workers that turn so seldom are offered more than they can take, and TCP's patience ends.
            && self.pace < SLOW
    }

    pub fn draw(draw: &mut Draw) -> Shape {
        let is_clean = draw.below(5) == 0;
        let workers = workers(draw);
        let is_tight = !is_clean && draw.below(3) == 0;
        let count = draw.between(2, 4);
        let ports = (0..count)
            .map(|_| PortShape {
                queues: draw.between(1, workers.into()) as u16,
                capacity: if is_tight { draw.between(2, 64) } else { 4096 } as usize,
                spread: draw.pick(&[Spread::First, Spread::Symmetric, Spread::Hashed, Spread::Turns]),
            })
            .collect();
        // With nothing going wrong no table may be full either.
        let connections = if is_clean {
            32_768
        } else if is_tight {
            draw.between(4, 60) as u32
        } else {
            4096
        };
        Shape {
            workers,
            ports,
            interfaces: interfaces(draw, count as u16),
            ring: if is_tight { draw.between(1, 32) } else { 1024 } as usize,
            twin_ring: if is_tight { draw.between(1, 16) } else { 512 } as usize,
            connections,
            ipv6_connections: if is_tight {
                draw.between(1, u64::from(connections)) as u32
            } else {
                connections
            },
            server_ids: if is_clean { 256 } else { draw.pick(&[24, 40, 256]) },
            clients: draw.between(1, 12) as usize,
            servers: draw.between(1, 8) as usize,
            has_other_methods: draw.coin(),
            client_ports: if is_clean { draw.pick(&[40, 200]) } else { draw.pick(&[3, 40, 2000]) },
            load: draw.pick(&[8, 60, 300]),
            pace: draw.pick(&[50, 300, 2000, SLOW]),
            change_every: if is_clean { 0 } else { draw.pick(&[0, 20, 200, 2000]) },
            faults: if is_clean {
                Faults { kill: draw.pick(&[0, 0, 100, 1000]), ..Faults::default() }
            } else {
                faults(draw)
            },
        }
    }

    /// What the director that is started next may have otherwise.
    pub fn draw_size(&mut self, draw: &mut Draw) {
        self.workers = workers(draw);
        for port in &mut self.ports {
            port.queues = draw.between(1, self.workers.into()) as u16;
        }
        if !self.is_clean() {
            self.connections = draw.pick(&[self.connections, self.connections, 16, 4096]);
            self.ipv6_connections = draw.between(1, self.connections.into()) as u32;
        }
    }
}

fn workers(draw: &mut Draw) -> u16 {
    (match draw.below(4) {
        0 => 1,
        1 => 2,
        2 => draw.between(3, 5),
        _ => draw.between(6, 16),
    }) as u16
}

/// Each port as it is or with a VLAN beside it; the first is outside, the second inside.
fn interfaces(draw: &mut Draw, ports: u16) -> Vec<InterfaceShape> {
    let mut all = Vec::new();
    for port in 0..ports {
        let is_outside = port == 0 || port > 1 && draw.coin();
        let mtu = draw.pick(&[1500, 1500, 1400, 1280]);
        all.push(InterfaceShape { port, vlan: 0, mtu, is_outside });
        if draw.below(3) == 0 {
            all.push(InterfaceShape { port, vlan: 10 + port, mtu, is_outside: draw.coin() });
        }
    }
    all
}

/// Some kinds of faults, each rare or frequent.
fn faults(draw: &mut Draw) -> Faults {
    let mut rate = |most: u64| -> PerMillion {
        match draw.below(5) {
            0 | 1 => 0,
            2 => draw.below(most / 50 + 1) as PerMillion,
            3 => draw.below(most / 5 + 1) as PerMillion,
            _ => draw.below(most + 1) as PerMillion,
        }
    };
    Faults {
        loss: rate(150_000),
        duplicate: rate(150_000),
        delay: rate(300_000),
        corrupt: rate(50_000),
        truncate: rate(30_000),
        fragment: rate(100_000),
        icmp: rate(30_000),
        link_down: rate(1000),
        server: rate(5000),
        stall: rate(20_000),
        dry: rate(5000),
        neighbour: rate(20_000),
        kill: rate(300),
        jump: rate(2000),
        junk: rate(50_000),
    }
}
