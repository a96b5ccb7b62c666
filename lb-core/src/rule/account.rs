//! Accounts: packets and bytes that are counted under a name (`nfacct`), by all rules that name it.
//!
//! Made, zeroed and removed by the control plane; added to by all workers with read-modify-writes, so that none is lost. The two numbers of an account are two: who reads them may see
//! a packet whose bytes follow.
//!
//! Source of the facts: Linux, `net/netfilter/nfnetlink_acct.c`, `xt_nfacct.c`; nfacct(8).

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Accounts at a time.
pub const MOST_ACCOUNTS: usize = 4096;
/// Bytes of a name.
pub const LONGEST_ACCOUNT_NAME: usize = 31;

/// Up to so much a rule that names the account does not match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccountQuota {
    pub is_of_packets: bool,
    pub limit: u64,
}

#[derive(Debug)]
pub struct Account {
    quota: Option<AccountQuota>,
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Account {
    /// One that has counted so many packets and bytes.
    pub fn new(quota: Option<AccountQuota>, (packets, bytes): (u64, u64)) -> Account {
        Account { quota, packets: AtomicU64::new(packets), bytes: AtomicU64::new(bytes) }
    }

    pub fn quota(&self) -> Option<AccountQuota> {
        self.quota
    }

    /// Packets and bytes.
    pub fn counts(&self) -> (u64, u64) {
        (self.packets.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// The same, and begins anew at 0: what comes meanwhile is in one of the two.
    pub fn take(&self) -> (u64, u64) {
        (self.packets.swap(0, Relaxed), self.bytes.swap(0, Relaxed))
    }

    /// Counts a packet; whether a rule matches it.
    pub(crate) fn count(&self, bytes: u64) -> bool {
        let packets = self.packets.fetch_add(1, Relaxed).wrapping_add(1);
        let bytes = self.bytes.fetch_add(bytes, Relaxed).wrapping_add(bytes);
        self.is_matched_at(packets, bytes)
    }

    /// Whether a rule would match a packet, if it came now.
    pub(crate) fn would_match(&self, bytes: u64) -> bool {
        let (packets, before) = self.counts();
        self.is_matched_at(packets.wrapping_add(1), before.wrapping_add(bytes))
    }

    fn is_matched_at(&self, packets: u64, bytes: u64) -> bool {
        self.quota.is_none_or(|quota| if quota.is_of_packets { packets } else { bytes } > quota.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As asked of Linux 6.18: with pings of 84 bytes the eleventh of 10 packets is the first that matches, the twelfth of 1000 bytes.
    #[test]
    fn a_quota_has_a_rule_match_once_more_was_counted() {
        let quota = |is_of_packets, limit| Some(AccountQuota { is_of_packets, limit });
        for (quota, first) in
            [(quota(true, 10), 11), (quota(false, 1000), 12), (quota(true, 0), 1), (None, 1)]
        {
            let account = Account::new(quota, (0, 0));
            let matched = (1..=20).find(|_| {
                let would = account.would_match(84);
                assert_eq!(account.count(84), would);
                would
            });
            assert_eq!(matched, Some(first), "{quota:?}");
            assert_eq!(account.counts(), (first, first * 84));
        }
    }

    #[test]
    fn several_workers_and_one_who_takes_lose_nothing() {
        const EACH: u64 = 20_000;
        let account = Account::new(None, (0, 0));
        let taken = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| (0..EACH).for_each(|n| assert!(account.count(n % 100)))))
                .collect();
            let mut taken = (0, 0);
            while !workers.iter().all(|worker| worker.is_finished()) {
                let (packets, bytes) = account.take();
                taken = (taken.0 + packets, taken.1 + bytes);
            }
            taken
        });
        let left = account.counts();
        let bytes: u64 = (0..EACH).map(|n| n % 100).sum();
        assert_eq!((taken.0 + left.0, taken.1 + left.1), (3 * EACH, 3 * bytes));
    }
}
