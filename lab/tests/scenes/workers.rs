//! Goal: with two workers, each flow is served by its owner, whichever of them received the packet.
//! Method: two queues, many connections; the workers share the machine's CPUs with everything else here.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lab::topology::{VIP, VIP_V6};
use lab::{Driver, LbdPlan, Plan, Scene, client, server};

#[test]
fn two_workers_serve_every_flow_and_hand_over_what_is_not_theirs() -> Result<()> {
    let workers = vec![0, 1];
    let lbd = LbdPlan { driver: Driver::AfPacket, workers, ..LbdPlan::default() };
    let scene = Scene::up(&Plan { queues: 2, ..Plan::default() }, &lbd)?;
    let content = server::serve_file(&scene.lab, "large", 4)?;
    for vip in [IpAddr::V4(VIP), VIP_V6.into()] {
        let all = scene.who_serves(vip, 30)?;
        for role in ["s1", "s2", "s3"] {
            assert!(all.iter().any(|who| who == role), "{role} served none of {all:?}, over {vip}");
        }
        scene.who_echoes(vip, 30)?;
        let mut download = client::KeptOpen::connect(scene.lab.client(), SocketAddr::new(vip, 80))?;
        assert!(download.get("/files/large")? == content, "the copy differs, over {vip}");
    }
    let metrics = scene.director.metrics()?;
    assert!(metrics.sum("lb_worker_handed_over_total", &[]) > 0.0, "{:?}", metrics.names());
    Ok(())
}
