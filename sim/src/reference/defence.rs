//! `drop_entry` and `secure_tcp`, and connections whose real server was removed. Which connections a walk comes by is the path's to choose; that they may go
//! is what is checked.

use hashbrown::{HashMap, HashSet};
use lb_core::flow::Tuple;
use lb_core::ipvs::sctp::SctpState;
use lb_core::ipvs::state::TcpState;
use lb_core::time::{Tick, Timeout};

use super::connection::State;
use super::flows::{Connection, Number};
use super::persistent::Serial;
use super::{Gone, Reference};

impl Reference {
    pub(super) fn places_left(&self) -> u64 {
        let places = self.counters.flows.capacity.get() - self.flows.len().0 as u64;
        places * self.team.counters.len() as u64
    }

    /// Which defences are on.
    pub(super) fn look_at_room(&mut self) {
        let sysctls = self.tables.settings.sysctls;
        let is_short = self.places_left() < u64::from(sysctls.amemthresh);
        self.is_secure = match sysctls.secure_tcp {
            0 => false,
            3 => true,
            _ => is_short,
        };
    }

    /// Once a second, while there is a defence.
    pub(super) fn defend(&mut self) {
        let sysctls = self.tables.settings.sysctls;
        let is_due = self.now.since(self.looked) >= Tick::PER_SECOND;
        if is_due && (sysctls.drop_entry != 0 || sysctls.secure_tcp != 0) {
            self.looked = self.now;
            self.look_at_room();
        }
    }

    /// Whether `drop_entry` may end a connection. Nobody counts its packets.
    fn may_go(&self, connection: &Connection, left: &HashMap<Tuple, Timeout>) -> bool {
        if self.tables.settings.sysctls.drop_entry == 0 {
            return false;
        }
        if let Some(template) = &connection.template {
            // Those whose time was over have ended before.
            let is_over = |it: &&Connection| {
                it.bound_by == Some(template.serial)
                    && self.now.is_at_or_after(it.due())
                    && !left.contains_key(&it.original)
            };
            return self.is_idle(template, self.flows.iter().filter(is_over).count());
        }
        match connection.state {
            State::Tcp(state) => matches!(state, TcpState::SynRecv | TcpState::SynAck),
            State::Sctp(state) => matches!(state, SctpState::Init1 | SctpState::Init),
            State::Awaited => false,
            State::Udp => self.now.since(connection.seen) >= 60 * Tick::PER_SECOND,
        }
    }

    /// Whether it may end because its real server was removed: not before those that it stands for.
    fn is_bereft(&self, connection: &Connection, left: &HashMap<Tuple, Timeout>) -> bool {
        let is_free = |serial: Serial| {
            // Those whose time was over have ended before.
            let is_over = |it: &&Connection| {
                (it.bound_by == Some(serial) || it.controlled_by == Some(serial))
                    && self.now.is_at_or_after(it.due())
                    && !left.contains_key(&it.original)
            };
            self.team.shared().template_use(serial).connections == self.flows.iter().filter(is_over).count()
        };
        self.tables.settings.sysctls.expire_nodest_conn == 1
            && connection.lacks_server(&self.tables.services)
            && connection.kept_as().is_none_or(is_free)
    }

    /// Ends those that the path dropped, and those whose real server was removed. Returns the templates among them, which others may be about to leave.
    ///
    /// # Errors
    /// One of them had to stay.
    pub(super) fn end_early(
        &mut self,
        gone: &Gone,
        left: &[(Tuple, Timeout)],
    ) -> Result<Vec<Serial>, String> {
        let left: HashMap<Tuple, Timeout> = left.iter().copied().collect();
        let is_gone = |connection: &Connection| {
            let is_invalid = connection.template.is_some_and(|template| template.is_invalid);
            !is_invalid && !left.contains_key(&connection.original)
        };
        let mut ends: Vec<Number> =
            self.flows.numbers().filter(|&number| is_gone(self.flows.get(number))).collect();
        let is_over = |connection: &Connection| self.now.is_at_or_after(connection.due());
        // Those whose time is over may have gone by that. A template goes after its connections.
        ends.sort_by_key(|&number| {
            let connection = self.flows.get(number);
            (is_over(connection), connection.may_be_kept())
        });
        let may_be_dropped: HashSet<Number> = ends
            .iter()
            .copied()
            .filter(|&number| gone.dropped > 0 && self.may_go(self.flows.get(number), &left))
            .collect();
        let mut still = gone.dropped + gone.bereft;
        let mut templates = Vec::new();
        for number in ends {
            let connection = self.flows.get(number);
            let may_go =
                may_be_dropped.contains(&number) || gone.bereft > 0 && self.is_bereft(connection, &left);
            match may_go {
                _ if still == 0 => break,
                true => {}
                false if self.now.is_at_or_after(connection.due()) => continue,
                false => return Err(format!("this had to stay: {connection:?}")),
            }
            still -= 1;
            match connection.template {
                Some(_) => templates.push(self.forget_template(number)),
                None => self.end(number),
            }
        }
        if still != 0 {
            return Err(format!("{gone:?}, and {still} of them are not gone"));
        }
        self.counters.flows.drop_entry.add(gone.dropped);
        self.counters.flows.bereft.add(gone.bereft);
        Ok(templates)
    }
}
