//! Realms (`ip route … realm`, `ip rule … realms`).

use super::*;

#[test]
fn realms_of_routes_and_rules_are_those_that_ip_was_told() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        block_on(async {
            twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24"])).await.expect("sets");
            let of = |view: &TwinView, to: &str| view.routes.realms(ip(to)).of_sent();
            sh(
                "ip route add 10.1.0.0/16 via 192.0.2.3 realm 5; ip route add 10.2.0.0/16 via 192.0.2.3 realm 3/4",
            );
            sh("ip route add 10.3.0.0/16 nexthop via 192.0.2.3 realm 1/2 nexthop via 192.0.2.4 realm 1/9");
            let are = async |expected: [u32; 3]| {
                wait_for(&twin, "realms", |view| {
                    ["10.1.0.1", "10.2.0.1", "10.3.0.1"].map(|to| of(view, to)) == expected
                })
                .await;
            };
            are([5, 0x3_0004, 0x1_0002]).await;
            assert_eq!(of(&twin.view(), "192.0.2.3"), 0);
            sh("ip route replace 10.1.0.0/16 via 192.0.2.3 realm 6; ip route del 10.3.0.0/16");
            are([6, 0x3_0004, 0]).await;
            sh("ip rule add pref 50 lookup main realms 17/18");
            are([0x11_0006, 0x3_0004, 0]).await;
            assert_eq!(of(&twin.view(), "192.0.2.3"), 0x11_0012);
            sh("ip rule del pref 50; ip route del 10.2.0.0/16; ip route replace 10.1.0.0/16 via 192.0.2.3");
            are([0; 3]).await;
        });
    });
}
