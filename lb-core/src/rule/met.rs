//! What a packet met on its way past the rules, and whether the next one of its connection will meet the same.

use arrayvec::ArrayVec;

/// Rules that one packet is noted with.
const MOST: usize = 32;

/// From hook to hook.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// By their counters: each rule that matched, each policy that decided.
    rules: ArrayVec<u32, MOST>,
    /// Something was asked, or done, that hangs on more than the flow; or there were too many.
    is_of_packet: bool,
}

impl Met {
    pub(crate) fn begin_anew(&mut self) {
        self.rules.clear();
        self.is_of_packet = false;
    }

    /// A rule's matches were asked.
    #[inline]
    pub(super) fn ask(&mut self, are_of_flow: bool) {
        self.is_of_packet |= !are_of_flow;
    }

    /// A rule matched, or a policy decided.
    #[inline]
    pub(super) fn note(&mut self, counter: u32, is_of_flow: bool) {
        self.is_of_packet |= !is_of_flow || self.rules.try_push(counter).is_err();
    }

    /// The packet goes no further, and another one may: what it would have met is not known.
    #[cold]
    pub(crate) fn end_early(&mut self) {
        self.is_of_packet = true;
    }

    /// The rules; `None`: the next packet may meet others.
    pub(crate) fn of_flow(&self) -> Option<&[u32]> {
        (!self.is_of_packet).then_some(&self.rules[..])
    }
}
