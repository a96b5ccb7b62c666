//! How a port's packets get to the workers that have their connections, in words for who may change something about it.

use lb_core::rss::{End, Lack, Means, Spread};

/// What is known of a port.
pub(super) struct Steering {
    pub(super) workers: usize,
    pub(super) queues: usize,
    pub(super) spread: Spread,
    /// Of 100 packets that it received so far.
    pub(super) handed_over: u64,
    /// Workers were to sleep until its receive interrupts, and it has none.
    pub(super) naps: bool,
}

impl Steering {
    /// A share of packets handed over that is worth a word.
    const MANY: u64 = 20;

    pub(super) fn in_words(&self) -> String {
        let way = self.way();
        match self.naps {
            true => format!("{way}; it has no receive interrupts, idle workers that receive by it nap"),
            false => way,
        }
    }

    fn way(&self) -> String {
        let Steering { workers, queues, spread, handed_over, .. } = *self;
        if workers == 1 {
            return "one worker has all".to_owned();
        }
        let by = match spread {
            _ if queues == 1 => format!("one queue for {workers} workers"),
            Spread::OneQueue | Spread::ItsWay => {
                format!("spread by the device, {queues} queues for {workers} workers")
            }
            Spread::BothEnds(lack) => {
                format!("RSS by both ends, {queues} queues for {workers} workers, for {}", lacking(lack))
            }
            Spread::OneEnd(End::Source, _) => "RSS by the source, the client's end".to_owned(),
            Spread::OneEnd(End::Destination, Means::Fields) => {
                "RSS by the destination, the client's end".to_owned()
            }
            Spread::OneEnd(End::Destination, Means::Key) => {
                "RSS by the destination, the client's end; IPv6 is handed over".to_owned()
            }
        };
        if queues < workers {
            return format!(
                "{by}: {} of them get all of it from others; give it {workers} queues, where it can, or have fewer workers",
                workers - queues
            );
        }
        if handed_over < Self::MANY {
            return by;
        }
        let counted = format!("{by}: {handed_over} of 100 packets were handed over");
        match spread {
            Spread::OneEnd(End::Source, _) => format!(
                "{counted}, as real servers' answers, fragments and ICMP errors are; give real servers a port of their own, and ports with \
                 clients `outside = true`; where it is so already the device hashes otherwise than its driver says"
            ),
            Spread::OneEnd(End::Destination, _) => format!(
                "{counted}, as what clients send, fragments and ICMP errors are; say `outside = true` of ports with clients; where it is so \
                 already the device hashes otherwise than its driver says"
            ),
            // Both directions come to the worker that the client's end chooses; a hash of both ends knows nothing of that.
            _ => format!(
                "{counted}, {} are to be expected; fewer workers hand over less",
                (workers - 1) * 100 / workers
            ),
        }
    }
}

fn lacking(lack: Lack) -> &'static str {
    match lack {
        Lack::Ports => "it does not hash the ports of TCP and UDP",
        Lack::Queues => "it has not a queue for each worker",
        Lack::Key => "it takes no key",
        Lack::Table => "it takes no table of our length",
        Lack::Obedience => "it did not take the key and the table that it was given",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_and_can_be_changed_is_said() {
        let say = |workers, queues, spread, handed_over| {
            Steering { workers, queues, spread, handed_over, naps: false }.in_words()
        };
        assert_eq!(say(1, 1, Spread::OneQueue, 0), "one worker has all");
        let naps = Steering { workers: 1, queues: 1, spread: Spread::OneQueue, handed_over: 0, naps: true };
        assert_eq!(
            naps.in_words(),
            "one worker has all; it has no receive interrupts, idle workers that receive by it nap"
        );
        assert_eq!(
            say(4, 1, Spread::OneQueue, 75),
            "one queue for 4 workers: 3 of them get all of it from others; give it 4 queues, where it can, or have fewer workers"
        );
        assert_eq!(
            say(4, 4, Spread::BothEnds(Lack::Key), 3),
            "RSS by both ends, 4 queues for 4 workers, for it takes no key"
        );
        assert_eq!(
            say(4, 2, Spread::BothEnds(Lack::Queues), 60),
            "RSS by both ends, 2 queues for 4 workers, for it has not a queue for each worker: 2 of them get all of it from others; \
             give it 4 queues, where it can, or have fewer workers"
        );
        assert_eq!(
            say(4, 4, Spread::ItsWay, 74),
            "spread by the device, 4 queues for 4 workers: 74 of 100 packets were handed over, 75 are to be expected; fewer workers hand over less"
        );
    }

    #[test]
    fn a_port_that_looks_at_the_clients_end_says_which_one_it_is_and_what_is_wrong_when_much_is_handed_over()
    {
        let say = |end, means, handed_over| {
            let spread = Spread::OneEnd(end, means);
            Steering { workers: 4, queues: 4, spread, handed_over, naps: false }.in_words()
        };
        assert_eq!(say(End::Source, Means::Key, 0), "RSS by the source, the client's end");
        assert_eq!(say(End::Destination, Means::Fields, 19), "RSS by the destination, the client's end");
        assert_eq!(
            say(End::Destination, Means::Key, 0),
            "RSS by the destination, the client's end; IPv6 is handed over"
        );
        assert!(
            say(End::Source, Means::Key, 37)
                .contains("37 of 100 packets were handed over, as real servers' answers")
        );
        assert!(
            say(End::Destination, Means::Fields, 75).contains("say `outside = true` of ports with clients")
        );
    }
}
