//! Packets of a virtual service: behind INPUT its connections begin.

use std::net::IpAddr;

use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::rule::Table;

use super::{
    Connection, FORWARD, Fate, Forwarding, INPUT, Netfilter, OUTPUT, Packet, Passage, Passed, Takes, Verdict,
};
use crate::wire::{TCP, UDP};

impl Netfilter {
    /// Behind INPUT.
    pub(super) fn is_for_service(&self, passage: &Passage) -> bool {
        let Tuple { dst, dport, protocol, .. } = passage.ends;
        self.service.is_some_and(|service| match service.takes {
            Takes::Marked(mark) => {
                passage.mark == mark && self.net.is_own(dst) && [TCP, UDP].contains(&protocol.0)
            }
            Takes::Endpoint(of, address) => (protocol.0, (dst, dport)) == (of, address),
        })
    }

    /// What begins a service's connection: from INPUT on it has the real server as its destination, and the way of what the host sends; there the table `nat`
    /// says where it comes from, as far as the real server knows.
    pub(super) fn serve(
        &mut self,
        left: Option<&Packet>,
        passage: &mut Passage,
    ) -> Passed<Result<Fate<Tuple>, String>> {
        let came = passage.connection.as_ref().map_or(passage.ends, |connection| connection.original);
        let service = self.service.expect("it is for it");
        let picked = service.server((came.src, came.sport));
        let server = match service.is_persistent {
            true => {
                let (address, port) = *self.kept.entry(came.src).or_insert(picked);
                // By mark a client gets the port that the packet is for at INPUT (`ip_vs_sched_persist`).
                (address, if matches!(service.takes, Takes::Marked(_)) { passage.ends.dport } else { port })
            }
            false => picked,
        };
        let leaves = Tuple { dst: server.0, dport: server.1, ..came };
        match service.forwarding {
            Forwarding::Masquerading => {}
            Forwarding::FullNat => return self.serve_by_full_nat(came, leaves, passage),
            Forwarding::Direct | Forwarding::Tunnel(_) => {
                let is_tunnelled = service.forwarding != Forwarding::Direct;
                return self.serve_one_way(came, server.0, is_tunnelled, passage);
            }
        }
        // An older one that the real server could not tell from it goes.
        for tuple in [came, leaves.reversed()] {
            self.end(&tuple);
        }
        let served = Connection::served(came, leaves.reversed());
        let is_followed = passage.connection.is_some();
        if let Some(connection) = &mut passage.connection {
            let Connection { mark, counts, .. } = *connection;
            *connection = Connection { mark, counts, ..served.clone() };
        }
        (passage.input, passage.output) = (None, Some(self.net.interface(server.0)));
        passage.ends = leaves;
        if !is_followed {
            // Nothing is translated, and nobody asks whether it goes on.
            if let Err(why) = self.enter(served) {
                return Ok(Err(why));
            }
            passage.goes_on()?;
            self.ask_all(&OUTPUT, passage)?;
            return Ok(Ok(Fate::Sent(passage.ends)));
        }
        passage.goes_on()?;
        self.ask_all(&OUTPUT, passage)?;
        let verdict = self.verdict(Table::Nat, Hook::Postrouting, passage);
        if matches!(verdict, Verdict::Source(_) | Verdict::Masquerade(_)) {
            match self.translate_source(verdict, passage, left) {
                Ok(true) => {}
                Ok(false) => return Err(Fate::NoPort(Hook::Postrouting)),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(Fate::Sent(passage.ends)))
    }

    /// The same by direct routing or a tunnel: it stays as it came, and nobody asks whether its first packet goes on.
    fn serve_one_way(
        &mut self,
        came: Tuple,
        server: IpAddr,
        is_tunnelled: bool,
        passage: &mut Passage,
    ) -> Passed<Result<Fate<Tuple>, String>> {
        let direct = Some((server, came.dport));
        let served = Connection { direct, is_tunnelled, ..Connection::served(came, came.reversed()) };
        let inner = self.within(is_tunnelled, came, server);
        if let Err(why) = self.pass_first(served, inner, server, passage)? {
            return Ok(Err(why));
        }
        passage.ends = came;
        Ok(Ok(if is_tunnelled { Fate::Tunnelled(came, server) } else { Fate::Routed(came, server) }))
    }

    /// As rules see on its way what goes to a real server as it is: a tunnel's has that one's address, unless it is of the other family.
    fn within(&self, is_tunnelled: bool, came: Tuple, server: IpAddr) -> Tuple {
        let is_like_it = server.is_ipv6() == came.dst.is_ipv6();
        if is_tunnelled && is_like_it { Tuple { dst: server, ..came } } else { came }
    }

    /// The same by FullNAT: `inner` leaves from the end that the path has chosen, which only its real server and answers to that see.
    fn serve_by_full_nat(
        &mut self,
        came: Tuple,
        inner: Tuple,
        passage: &mut Passage,
    ) -> Passed<Result<Fate<Tuple>, String>> {
        let Some((src, sport)) = self.local else { return Ok(Err(format!("{came:?} has no local end"))) };
        let leaves = Tuple { src, sport, ..inner };
        let own = self.net.own_like(inner.dst);
        if src != own || sport < 1024 || self.by_tuple.contains_key(&(0, leaves.reversed())) {
            return Ok(Err(format!("{came:?} leaves as {leaves:?}")));
        }
        let served = Connection { is_full_nat: true, ..Connection::served(came, leaves.reversed()) };
        // What leaves in the other family rules see as it came.
        let seen = if inner.dst.is_ipv6() == came.dst.is_ipv6() { inner } else { came };
        if let Err(why) = self.pass_first(served, seen, inner.dst, passage)? {
            return Ok(Err(why));
        }
        passage.ends = leaves;
        Ok(Ok(Fate::Sent(leaves)))
    }

    /// The way of what the host sends, of a packet that begins a connection which is there by then: `inner` as rules see it, and `to` its real server.
    fn pass_first(
        &mut self,
        served: Connection,
        inner: Tuple,
        to: IpAddr,
        passage: &mut Passage,
    ) -> Passed<Result<(), String>> {
        let came = served.original;
        self.end(&came);
        let followed = passage.connection.take();
        let (mark, counts) = followed.as_ref().map_or((0, Default::default()), |it| (it.mark, it.counts));
        let served = Connection { mark, counts, ..served };
        if let Err(why) = self.enter(served.clone()) {
            return Ok(Err(why));
        }
        passage.connection = followed.is_some().then_some(served);
        (passage.input, passage.output) = (None, Some(self.net.interface(to)));
        passage.ends = inner;
        let outcome = passage.goes_on().and_then(|()| self.ask_all(&OUTPUT, passage));
        if let Some(connection) = passage.connection.clone() {
            let (number, _) = self.by_tuple[&(0, came)];
            self.write_back(number, connection);
        }
        outcome?;
        // What tells its sender that it goes no further would still be about it.
        passage.connection = None;
        Ok(Ok(()))
    }

    /// What follows on it, behind PREROUTING.
    pub(super) fn pass_served(&mut self, passage: &mut Passage) -> Passed {
        let served = passage.served.as_ref().expect("it is of one");
        if let Some((server, _)) = served.direct {
            let (came, is_tunnelled) = (passage.ends, served.is_tunnelled);
            self.ask_all(&INPUT, passage)?;
            passage.goes_on()?;
            (passage.input, passage.output) = (None, Some(self.net.interface(server)));
            passage.ends = self.within(is_tunnelled, came, server);
            self.ask_all(&OUTPUT, passage)?;
            passage.ends = came;
            return Ok(());
        }
        let is_reply = served.reply == passage.ends;
        let leaves = served.leaves(is_reply);
        let came = passage.ends;
        let inner = match leaves.dst.is_ipv6() == came.dst.is_ipv6() {
            true => Tuple { dst: leaves.dst, dport: leaves.dport, ..came },
            false => came,
        };
        if is_reply {
            passage.goes_on()?;
            (passage.ends, passage.output) = (inner, Some(self.net.interface(leaves.dst)));
            self.ask_all(&FORWARD, passage)?;
            passage.ends = leaves;
            return self.ask(Table::Mangle, Hook::Postrouting, passage);
        }
        self.ask_all(&INPUT, passage)?;
        passage.goes_on()?;
        (passage.input, passage.output) = (None, Some(self.net.interface(leaves.dst)));
        passage.ends = inner;
        self.ask_all(&OUTPUT, passage)?;
        passage.ends = leaves;
        Ok(())
    }

    pub(super) fn served(&self, ends: &Tuple) -> Option<Connection> {
        let &(number, _) = self.by_tuple.get(&(0, *ends))?;
        self.connections[number].clone().filter(|connection| connection.is_served)
    }
}
