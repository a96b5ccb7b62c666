//! How a port's packets get to the workers that have their connections, in words for who may change something about it.

/// What is known of a port.
pub(super) struct Spread {
    pub(super) workers: usize,
    pub(super) queues: usize,
    /// The device spreads packets by a hash of both ends.
    pub(super) by_rss: bool,
    /// Of 100 packets that it received so far.
    pub(super) handed_over: u64,
}

impl Spread {
    /// A share of packets handed over that is worth a word.
    const MANY: u64 = 20;

    pub(super) fn in_words(&self) -> String {
        let Spread { workers, queues, by_rss, handed_over } = *self;
        if workers == 1 {
            return "one worker has all".to_owned();
        }
        let how = match queues {
            1 => format!("one queue for {workers} workers"),
            _ if by_rss => format!("RSS by both ends, {queues} queues for {workers} workers"),
            _ => format!("spread by the device, {queues} queues for {workers} workers"),
        };
        if queues < workers {
            return format!(
                "{how}: {} of them get all of it from others; give it {workers} queues, where it can, or have fewer workers",
                workers - queues
            );
        }
        if handed_over < Self::MANY {
            return how;
        }
        // Both directions come to the worker that the client's end chooses; a hash of both ends knows nothing of that.
        format!(
            "{how}: {handed_over} of 100 packets were handed over, {} are to be expected; fewer workers hand over less",
            (workers - 1) * 100 / workers
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_and_can_be_changed_is_said() {
        let say =
            |workers, queues, by_rss, handed_over| Spread { workers, queues, by_rss, handed_over }.in_words();
        assert_eq!(say(1, 1, false, 0), "one worker has all");
        assert_eq!(
            say(4, 1, false, 75),
            "one queue for 4 workers: 3 of them get all of it from others; give it 4 queues, where it can, or have fewer workers"
        );
        assert_eq!(say(4, 4, true, 3), "RSS by both ends, 4 queues for 4 workers");
        assert_eq!(
            say(4, 4, false, 74),
            "spread by the device, 4 queues for 4 workers: 74 of 100 packets were handed over, 75 are to be expected; fewer workers hand over less"
        );
    }
}
