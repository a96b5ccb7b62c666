//! Which real server gets a new connection: one file a scheduler, one row in the table.

/// The schedulers' table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SchedulerKind {
    Rr,
    Wrr,
    Lc,
    Wlc,
}

impl SchedulerKind {
    pub const ALL: &'static [SchedulerKind] =
        &[SchedulerKind::Rr, SchedulerKind::Wrr, SchedulerKind::Lc, SchedulerKind::Wlc];

    /// As in `ipvsadm -s` and in the config.
    pub const fn name(self) -> &'static str {
        match self {
            SchedulerKind::Rr => "rr",
            SchedulerKind::Wrr => "wrr",
            SchedulerKind::Lc => "lc",
            SchedulerKind::Wlc => "wlc",
        }
    }

    pub fn from_name(name: &str) -> Option<SchedulerKind> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}
