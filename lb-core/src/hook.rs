//! The five hooks of the packet path, as netfilter names them, and what sits at each.

/// A point on a packet's road (netfilter's five, and the two ends of the road that are before and after them).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Hook {
    /// Before PREROUTING: parsing, steering between workers.
    Ingress,
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    /// After POSTROUTING: next hop, port.
    Egress,
}

impl Hook {
    pub const ALL: [Hook; 7] = [
        Hook::Ingress,
        Hook::Prerouting,
        Hook::Input,
        Hook::Forward,
        Hook::Output,
        Hook::Postrouting,
        Hook::Egress,
    ];

    /// The label in metrics and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Hook::Ingress => "ingress",
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
            Hook::Egress => "egress",
        }
    }
}
