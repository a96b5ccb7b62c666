//! Both daemons over a real wire, a veth pair within one network namespace that goes when the test ends.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tokio::runtime::Builder;

use super::link::Link;
use super::*;
use crate::daemon::fake::FakePlane;
use crate::netns::{in_namespace, sh};

const PATIENCE: Duration = Duration::from_secs(30);

fn make_wire() {
    sh("ip link add left type veth peer name right; ip addr add 10.0.0.1/24 dev left; \
        ip addr add 10.0.0.2/24 dev right; sysctl -qw net.ipv4.conf.all.rp_filter=0; \
        for i in left right; do sysctl -qw net.ipv4.conf.$i.rp_filter=0 net.ipv4.conf.$i.accept_local=1; \
        ip link set $i up; done");
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The backup heard all that the master has, from here on.
async fn until_joined(state: &SyncState, when: &str) {
    let counters = &state.counters;
    let before = [&counters.asked, &counters.answered, &counters.messages_received].map(|c| c.load(Relaxed));
    until(when, || {
        let now = [&counters.asked, &counters.answered, &counters.messages_received].map(|c| c.load(Relaxed));
        now.into_iter().zip(before).all(|(now, before)| now > before)
    })
    .await;
    until("all is well", || SyncRole::ALL.iter().all(|&role| state.problem(role).is_none())).await;
}

#[test]
fn daemons_are_there_again_when_their_interface_was_made_again() {
    in_namespace(|| {
        make_wire();
        let daemons =
            vec![SyncDaemon::new(SyncRole::Master, "left"), SyncDaemon::new(SyncRole::Backup, "right")];
        let refresh = Duration::from_secs(10);
        let (tell, wanted) = watch::channel(Wanted { daemons, refresh, ..Wanted::default() });
        let state = Arc::new(SyncState::default());
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let life = tokio::spawn(run(wanted, FakePlane::new(1), state.clone()));
            until_joined(&state, "at first").await;
            // Nobody looked meanwhile.
            sh("ip link del left");
            make_wire();
            until_joined(&state, "at once another one").await;
            sh("ip link del left");
            until("its absence is told", || {
                SyncRole::ALL.iter().all(|&role| {
                    state.problem(role).is_some_and(|problem| problem.contains("No such device"))
                })
            })
            .await;
            make_wire();
            until_joined(&state, "after a while without").await;
            drop(tell);
            life.await.expect("it ends with who wants it");
        });
    });
}

#[test]
fn the_group_has_the_hops_and_the_buffers_that_were_asked_for() {
    in_namespace(|| {
        make_wire();
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for (group, ttl) in [("224.0.0.81", 7), ("ff02::81", 9)] {
                let group = group.parse().expect("an address");
                let daemon = SyncDaemon { group, ttl, ..SyncDaemon::new(SyncRole::Master, "left") };
                for size in [0, 100_000] {
                    let link = Link::try_open(&daemon, size).expect("a link");
                    let (hops, receives, sends) = link.options();
                    assert_eq!(hops, u32::from(ttl));
                    // The kernel doubles what it is told, for its own book-keeping (socket(7)).
                    let is_asked_for = size > 0;
                    assert_eq!(
                        [receives == 200_000, sends == 200_000],
                        [is_asked_for; 2],
                        "{receives} {sends}"
                    );
                }
            }
        });
    });
}
