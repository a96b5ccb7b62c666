//! The labels of a packet's connection, as rules read and set them.

use crate::conntrack::Labels;
use crate::counters::Counter;
use crate::flow::{FlowId, Store};

/// Those of a connection that is entered, or of one that the packet begins, which gets them when it is.
pub struct Labelled<'a> {
    pub(crate) flows: &'a mut Store,
    pub(crate) at: Option<FlowId>,
    pub(crate) to_be: &'a mut Labels,
    /// How often there was no room for a set of labels.
    pub(crate) full: &'a Counter,
}

impl Labelled<'_> {
    pub(crate) fn get(&self) -> Labels {
        self.at.filter(|&id| self.flows.is_live(id)).map_or(*self.to_be, |id| self.flows.labels(id))
    }

    /// One more. False: there is no room for such a set of labels.
    pub(crate) fn add(&mut self, bit: u8) -> bool {
        let labels = self.get().with(bit);
        let is_done = match self.at {
            // It ended before what is said of it passes the rules.
            Some(id) if !self.flows.is_live(id) => return false,
            Some(id) => self.flows.set_labels(id, labels),
            None => self.flows.can_have(labels),
        };
        match (is_done, self.at) {
            (false, _) => self.full.add(1),
            (true, None) => *self.to_be = labels,
            (true, Some(_)) => {}
        }
        is_done
    }
}
