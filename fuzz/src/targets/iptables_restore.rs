//! Any file can be given to `iptables-restore`: all of it is done or nothing, and what it made is saved and restored to the same.

use crate::rules::{IPV4, IPV6, InProcess};

/// What is there before.
const BEFORE: &str = "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n:web -\n\
    -A FORWARD -p tcp --dport 80 -j web\n-A web -j ACCEPT\nCOMMIT\n";

pub(crate) fn run(data: &[u8]) {
    let file = String::from_utf8_lossy(data);
    for programs in [IPV4, IPV6] {
        let mut keeper = InProcess::new();
        assert_eq!(programs.restore(BEFORE, &mut keeper).code, 0);
        let before = programs.save(&mut keeper);
        let done = programs.restore(&file, &mut keeper);
        if done.code != 0 {
            assert_eq!(programs.save(&mut keeper), before, "it failed and did something: {done:?}");
        }
        programs.check_round_trip(&mut keeper);
    }
}
