//! `drop_entry` and `secure_tcp`. Which connections a walk comes by is the path's to choose; that they may go is what is checked.

use hashbrown::HashMap;
use lb_core::flow::Tuple;
use lb_core::ipvs::sctp::SctpState;
use lb_core::ipvs::state::TcpState;
use lb_core::time::{Tick, Timeout};

use super::Reference;
use super::connection::State;
use super::flows::{Connection, Number};
use super::persistent::Serial;

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

    /// Ends those that the path dropped. Returns the templates among them, which others may be about to leave.
    ///
    /// # Errors
    /// One of them had to stay.
    pub(super) fn drop_entries(
        &mut self,
        dropped: u64,
        left: &[(Tuple, Timeout)],
    ) -> Result<Vec<Serial>, String> {
        let left: HashMap<Tuple, Timeout> = left.iter().copied().collect();
        let is_gone = |connection: &Connection| {
            let is_invalid = connection.template.is_some_and(|template| template.is_invalid);
            !is_invalid && !left.contains_key(&connection.original)
        };
        let (over, early): (Vec<Number>, Vec<Number>) = self
            .flows
            .numbers()
            .filter(|&number| is_gone(self.flows.get(number)))
            .partition(|&number| self.now.is_at_or_after(self.flows.get(number).due()));
        // Those whose time is over may have gone by that.
        let over = over.into_iter().filter(|&number| self.may_go(self.flows.get(number), &left));
        let gone: Vec<Number> = early.into_iter().chain(over).take(dropped as usize).collect();
        if let Some(&number) = gone.iter().find(|&&number| !self.may_go(self.flows.get(number), &left)) {
            return Err(format!("drop_entry ended {:?}", self.flows.get(number)));
        }
        if gone.len() as u64 != dropped {
            return Err(format!("drop_entry ended {dropped} connections, {} are gone", gone.len()));
        }
        let mut templates = Vec::new();
        for number in gone {
            self.counters.flows.drop_entry.add(1);
            match self.flows.get(number).template {
                Some(_) => templates.push(self.forget_template(number)),
                None => self.end(number),
            }
        }
        Ok(templates)
    }
}
