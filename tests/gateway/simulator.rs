//! The simulator, as the real SDK sees it. Other SDKs judge it in tests/interop.

use std::time::Duration;

use amistore_gateway::{
    domain::wall_clock,
    simulator::{Settings, Simulator},
};

use crate::support::{REGION, Setup, all, finished};

#[tokio::test]
async fn the_same_seed_tells_the_same_story() {
    let start = wall_clock();
    let story = |seed| {
        let settings = Settings { seed, ..Settings::starting_at(start) };
        Simulator::new(settings).tasks(REGION)
    };
    assert_eq!(story(1), story(1));
    assert_ne!(story(1), story(2));
    assert_eq!(story(1).len(), 40);
}

#[tokio::test]
async fn ec2s_own_quota_is_kept() {
    let mut setup = Setup::default();
    // A gateway without discipline.
    setup.gateway.ec2.rate.burst = 1000;
    setup.gateway.ec2.retry.max_attempts = 1;
    setup.simulator.latency = Duration::ZERO;
    let rig = setup.start().await;
    rig.add(finished(1));
    let client = rig.client();
    for _ in 0..60 {
        let asked = rig.until(client.list(crate::support::at_most(0, all()))).await;
        if let Err(status) = asked {
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
            break;
        }
    }
    let journal = rig.simulator.journal();
    let granted = journal.entries().filter(|entry| entry.answer == "OK").count();
    let throttled =
        journal.entries().filter(|entry| entry.answer == "RequestLimitExceeded").count();
    assert!((50..=55).contains(&granted) && throttled == 1, "{granted} and {throttled}");
}

#[tokio::test]
async fn faults_at_random_are_survived() {
    let mut setup = Setup::default();
    setup.simulator.fault_rate = 0.3;
    let rig = setup.start().await;
    rig.add(finished(3));
    let client = rig.client();
    let mut answered = 0;
    for _ in 0..50 {
        rig.run_for(Duration::from_secs(20)).await;
        if let Ok(answer) = rig.until(client.list(all())).await {
            assert_eq!(answer.into_inner().tasks.len(), 3);
            answered += 1;
        }
    }
    assert!(answered >= 48, "{answered} of 50");
}
