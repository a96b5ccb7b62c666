//! What a changed file says of an object that was changed by other means as well: each of its words that the file
//! changed is the file's, each other one stays as it runs.
//!
//! Options are listed one by one, without a rest, so that a new one cannot be forgotten.

use lb_core::ipvs::scheduler::Scheduler;
use lb_core::tables::{ConnLimits, Persistence, ServiceOptions};

/// From `old` to `new` the file went; what it left alone is as it runs.
#[derive(Clone, Copy)]
pub(super) struct Merge<T> {
    pub(super) old: T,
    pub(super) new: T,
    pub(super) running: T,
}

impl<T: PartialEq> Merge<T> {
    pub(super) fn value(self) -> T {
        if self.old == self.new { self.running } else { self.new }
    }
}

impl<T: Copy> Merge<T> {
    fn of<U>(self, part: impl Fn(&T) -> U) -> Merge<U> {
        Merge { old: part(&self.old), new: part(&self.new), running: part(&self.running) }
    }
}

impl Merge<Scheduler> {
    pub(super) fn scheduler(self) -> Scheduler {
        let is_another = self.old.kind != self.new.kind;
        let Scheduler { kind, flags, table_size, warmup } = Scheduler {
            kind: self.of(|it| it.kind).value(),
            flags: self.of(|it| it.flags).value(),
            table_size: self.of(|it| it.table_size).value(),
            warmup: self.of(|it| it.warmup).value(),
        };
        // Flags and size are a scheduler's own: they do not pass from one to another.
        let (flags, table_size) = if is_another {
            (self.new.flags, self.new.table_size)
        } else if kind != self.new.kind {
            (self.running.flags, self.running.table_size)
        } else {
            (flags, table_size)
        };
        Scheduler { kind, flags, table_size, warmup }
    }
}

impl Merge<ServiceOptions> {
    pub(super) fn options(self) -> ServiceOptions {
        ServiceOptions {
            persistence: self.of(|it| it.persistence).persistence(),
            engine: self.of(|it| it.engine).value(),
            one_packet: self.of(|it| it.one_packet).value(),
            proxy_protocol: self.of(|it| it.proxy_protocol).value(),
            toa: self.of(|it| it.toa).value(),
            clamp_mss: self.of(|it| it.clamp_mss).value(),
            helper: self.of(|it| it.helper).value(),
            syn_cookies: self.of(|it| it.syn_cookies).value(),
            limits: self.of(|it| it.limits).limits(),
        }
    }
}

impl Merge<Option<Persistence>> {
    fn persistence(self) -> Option<Persistence> {
        let Merge { old: Some(old), new: Some(new), running: Some(running) } = self else {
            return self.value();
        };
        let both = Merge { old, new, running };
        Some(Persistence { timeout: both.of(|it| it.timeout).value(), mask: both.of(|it| it.mask).value() })
    }
}

impl Merge<ConnLimits> {
    fn limits(self) -> ConnLimits {
        let merged = ConnLimits {
            connections: self.of(|it| it.connections).value(),
            rate: self.of(|it| it.rate).value(),
            source_connections: self.of(|it| it.source_connections).value(),
            source_rate: self.of(|it| it.source_rate).value(),
            source_prefix: self.of(|it| it.source_prefix).value(),
        };
        // A prefix is nothing without a limit: what is left of one with the other is what the file says of both.
        if merged.source_prefix.is_some() && !merged.are_by_source() {
            let ConnLimits { source_connections, source_rate, source_prefix, .. } = self.new;
            return ConnLimits { source_connections, source_rate, source_prefix, ..merged };
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use lb_core::ipvs::SchedulerKind;
    use lb_core::ipvs::scheduler::SchedulerFlags;
    use lb_core::tables::{ClientMask, SynCookies};
    use lb_core::time::Timeout;

    use super::*;

    fn scheduler(kind: SchedulerKind, flag: Option<&str>) -> Scheduler {
        let flags = SchedulerFlags::from_names(kind, flag).expect("its flag");
        Scheduler { flags, ..kind.into() }
    }

    #[test]
    fn each_option_is_the_files_where_the_file_changed_it() {
        let persistence = |timeout, bits| {
            let mask = ClientMask::ipv4(std::net::Ipv4Addr::from(u32::MAX << (32 - bits)));
            Some(Persistence { timeout: Timeout::from_secs(timeout), mask })
        };
        let old =
            ServiceOptions { persistence: persistence(300, 32), toa: true, ..ServiceOptions::default() };
        let new = ServiceOptions { persistence: persistence(600, 32), clamp_mss: true, ..old };
        let running = ServiceOptions {
            persistence: persistence(300, 24),
            toa: false,
            syn_cookies: SynCookies::On,
            limits: ConnLimits { connections: 1000, ..ConnLimits::NONE },
            ..old
        };
        let merged = Merge { old, new, running }.options();
        let expected = ServiceOptions { persistence: persistence(600, 24), clamp_mss: true, ..running };
        assert_eq!(merged, expected);
        let running = ServiceOptions { persistence: None, ..running };
        assert_eq!(Merge { old, new, running }.options().persistence, new.persistence);
        assert_eq!(Merge { old, new: old, running }.options(), running, "the file says what it said");
        let new = ServiceOptions { persistence: None, ..old };
        assert_eq!(Merge { old, new, running: old }.options().persistence, None);
    }

    #[test]
    fn a_source_prefix_does_not_outlive_the_limits_that_it_is_for() {
        let of_file = ConnLimits { source_connections: 5, ..ConnLimits::NONE };
        let running = ConnLimits { source_prefix: Some(24), connections: 9, ..of_file };
        let merged = Merge { old: of_file, new: ConnLimits::NONE, running }.limits();
        assert_eq!(merged, ConnLimits { connections: 9, ..ConnLimits::NONE });
        let new = ConnLimits { source_prefix: Some(16), ..of_file };
        let merged = Merge { old: of_file, new, running: ConnLimits::NONE }.limits();
        assert_eq!(merged, new, "although the limit was taken away by hand");
    }

    #[test]
    fn flags_and_table_size_go_with_the_scheduler_that_they_are_of() {
        use SchedulerKind::{Maglev, Mh, Rr, Sh};
        let merged = |old, new, running| Merge { old, new, running }.scheduler();
        let (plain, port) = (scheduler(Sh, None), scheduler(Sh, Some("sh-port")));
        let warm = |scheduler| Scheduler { warmup: 30, ..scheduler };
        assert_eq!(merged(plain, port, warm(plain)), warm(port));
        assert_eq!(merged(plain, warm(plain), port), warm(port));
        let by_hand = scheduler(Mh, Some("mh-fallback"));
        assert_eq!(merged(plain, port, by_hand), by_hand, "what the file says of sh is not said of mh");
        assert_eq!(merged(port, scheduler(Rr, None), port), scheduler(Rr, None));
        let large = Scheduler { table_size: 65539, ..scheduler(Maglev, None) };
        assert_eq!(merged(scheduler(Maglev, None), large, by_hand), by_hand);
        assert_eq!(merged(scheduler(Rr, None), large, by_hand), large);
    }
}
