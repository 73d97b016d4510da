//! The simulator, as the real SDK sees it. The tests in tests/interop call it with other SDKs.

use std::time::{Duration, SystemTime};

use amistore_gateway::{
    domain::wall_clock,
    ec2::https,
    simulator::{Outcome, Settings, Simulator, TaskPlan, TokenFault},
};
use aws_config::{BehaviorVersion, retry::RetryConfig};
use aws_credential_types::Credentials;
use aws_sdk_ec2::{
    Client,
    error::ProvideErrorMetadata,
    operation::describe_store_image_tasks::{
        DescribeStoreImageTasksOutput, builders::DescribeStoreImageTasksFluentBuilder,
    },
    types::Filter,
};

use crate::support::{BUCKET, REGION, Rig, Setup, Task, all, at_most, finished, image};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A simulator that answers at once.
async fn start(change: impl FnOnce(&mut Settings)) -> Rig {
    let mut setup = Setup::default();
    setup.simulator.latency = Duration::ZERO;
    change(&mut setup.simulator);
    setup.start().await
}

/// The SDK, without retries.
fn sdk(rig: &Rig) -> Client {
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(aws_config::Region::new(REGION))
        .endpoint_url(&rig.endpoint)
        .credentials_provider(Credentials::new("simulated", "simulated", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .http_client(https())
        .build();
    Client::from_conf(config)
}

/// Sends the call. An error is EC2's code and message.
async fn send(
    rig: &Rig,
    call: DescribeStoreImageTasksFluentBuilder,
) -> Result<DescribeStoreImageTasksOutput, (String, String)> {
    rig.until(call.send()).await.map_err(|error| code_and_message(&error))
}

async fn look_up(rig: &Rig, number: u64) -> Result<Vec<String>, (String, String)> {
    let output = send(rig, sdk(rig).describe_store_image_tasks().image_ids(image(number))).await?;
    Ok(images(&output))
}

async fn list(rig: &Rig) -> Vec<String> {
    images(&send(rig, sdk(rig).describe_store_image_tasks()).await.expect("a listing"))
}

/// Reads a page of one task. Returns the task's image and the token of the next page.
async fn page(
    rig: &Rig,
    token: Option<&String>,
) -> Result<(Vec<String>, Option<String>), (String, String)> {
    let call = sdk(rig).describe_store_image_tasks().max_results(1);
    let output = send(rig, call.set_next_token(token.cloned())).await?;
    Ok((images(&output), output.next_token))
}

async fn create(rig: &Rig, number: u64) -> Result<(), (String, String)> {
    let call = sdk(rig).create_store_image_task().image_id(image(number)).bucket(BUCKET);
    match rig.until(call.send()).await {
        Ok(output) => {
            assert_eq!(output.object_key(), Some(format!("{}.bin", image(number)).as_str()));
            Ok(())
        }
        Err(error) => Err(code_and_message(&error)),
    }
}

fn code_and_message(error: &impl ProvideErrorMetadata) -> (String, String) {
    let code = error.code().expect("a code");
    (code.to_owned(), error.message().expect("a message").to_owned())
}

fn images(output: &DescribeStoreImageTasksOutput) -> Vec<String> {
    let tasks = output.store_image_task_results().iter();
    tasks.map(|task| task.ami_id().expect("an image").to_owned()).collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, (String, String)>) -> String {
    result.expect_err("a refusal").0
}

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
    // A gateway that does not limit its calls.
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

#[tokio::test]
async fn idle_images_are_known_and_have_no_task() {
    let rig = start(|settings| settings.story.idle_images = 2).await;
    let idle = rig.simulator.images_without_task(REGION);
    assert_eq!(idle.len(), 2);
    let call = sdk(&rig).describe_store_image_tasks().set_image_ids(Some(idle));
    assert_eq!(images(&send(&rig, call).await.expect("known images")), [""; 0]);
}

#[tokio::test]
async fn an_image_is_refused_with_the_code_of_choice() {
    let rig = start(|settings| {
        settings.refused_images.insert(image(1), "AuthFailure".to_owned());
    })
    .await;
    rig.add(finished(3));

    let (code_of_1, message) = look_up(&rig, 1).await.expect_err("refused");
    assert_eq!(code_of_1, "AuthFailure");
    assert_eq!(message, format!("Not authorized for images: [{}]", image(1)));
    assert_eq!(code(create(&rig, 1).await), "AuthFailure");
    let both = sdk(&rig).describe_store_image_tasks().image_ids(image(0)).image_ids(image(1));
    assert_eq!(code(send(&rig, both).await), "AuthFailure", "one bad ID fails the whole call");
    assert_eq!(look_up(&rig, 0).await.expect("not refused"), [image(0)]);
    assert_eq!(list(&rig).await, [image(0), image(1), image(2)], "the listing is not refused");

    rig.simulator.refuse_image(REGION, &image(1), Some("InvalidAMIID.NotFound"));
    let (code_of_1, message) = look_up(&rig, 1).await.expect_err("refused");
    assert_eq!(code_of_1, "InvalidAMIID.NotFound");
    assert!(message.contains(&image(1)), "{message}");

    rig.simulator.refuse_image(REGION, &image(1), None);
    assert_eq!(look_up(&rig, 1).await.expect("no longer refused"), [image(1)]);
    create(&rig, 1).await.expect("no longer refused");
}

#[tokio::test]
async fn a_muted_refusal_does_not_name_the_image() {
    let rig = start(|_| {}).await;
    rig.add(finished(1));
    rig.simulator.set_mute_about_images(true);
    rig.simulator.refuse_image(REGION, &image(0), Some("AuthFailure"));
    for (number, expected) in [(0, "AuthFailure"), (1, "InvalidAMIID.NotFound")] {
        let (code, message) = look_up(&rig, number).await.expect_err("refused");
        assert_eq!(code, expected);
        assert!(!message.contains(&image(number)), "{message}");
    }
}

#[tokio::test]
async fn a_new_image_is_unknown_for_a_while() {
    let rig = start(|settings| settings.image_appear_after = Duration::from_secs(30)).await;
    rig.simulator.add_image(REGION, &image(1));
    assert_eq!(code(look_up(&rig, 1).await), "InvalidAMIID.NotFound");
    assert_eq!(code(create(&rig, 1).await), "InvalidAMIID.NotFound");
    rig.run_for(Duration::from_secs(20)).await;
    assert_eq!(code(look_up(&rig, 1).await), "InvalidAMIID.NotFound");
    rig.run_for(Duration::from_secs(10)).await;
    assert_eq!(look_up(&rig, 1).await.expect("known"), [""; 0]);
    create(&rig, 1).await.expect("known");
    assert_eq!(look_up(&rig, 1).await.expect("known"), [image(1)]);
}

#[tokio::test]
async fn a_deregistered_image_is_unknown_and_its_tasks_are_listed_for_31_days() {
    let almost_31_days = Duration::from_secs(31 * 24 * 3600 - 60);
    let rig = start(|_| {}).await;
    rig.add([
        Task::done(&image(0), Duration::from_secs(60)),
        Task::done(&image(1), almost_31_days),
    ]);
    for number in [0, 1] {
        rig.simulator.deregister_image(REGION, &image(number));
        assert_eq!(code(look_up(&rig, number).await), "InvalidAMIID.NotFound");
        assert_eq!(code(create(&rig, number).await), "InvalidAMIID.NotFound");
    }
    assert_eq!(list(&rig).await, [image(0), image(1)]);
    rig.run_for(Duration::from_secs(61)).await;
    assert_eq!(list(&rig).await, [image(0)]);
}

#[tokio::test]
async fn forgotten_tasks_are_gone_and_their_image_is_known() {
    let rig = start(|_| {}).await;
    rig.add(finished(2));
    rig.simulator.forget_tasks(REGION, &image(0));
    assert_eq!(list(&rig).await, [image(1)]);
    assert_eq!(look_up(&rig, 0).await.expect("known"), [""; 0]);
    create(&rig, 0).await.expect("known");
    assert_eq!(list(&rig).await, [image(0), image(1)]);
}

#[tokio::test]
async fn tokens_are_refused_from_a_page_on_with_the_code_of_choice() {
    for code_of_choice in ["InvalidParameterValue", "InvalidPaginationToken", "InvalidNextToken"] {
        let rig = start(|settings| {
            settings.token_refusal_code = code_of_choice.to_owned();
            settings.token_fault = Some(TokenFault::RefusedFromPage(3));
        })
        .await;
        rig.add(finished(4));
        let (first, to_2) = page(&rig, None).await.expect("page 1");
        let (second, to_3) = page(&rig, to_2.as_ref()).await.expect("page 2");
        assert_eq!((first, second), (vec![image(0)], vec![image(1)]));
        assert_eq!(code(page(&rig, to_3.as_ref()).await), code_of_choice);

        rig.simulator.set_token_fault(Some(TokenFault::RefusedFromPage(2)));
        assert_eq!(code(page(&rig, to_2.as_ref()).await), code_of_choice);

        rig.simulator.set_token_fault(None);
        let (third, to_4) = page(&rig, to_3.as_ref()).await.expect("page 3");
        let (fourth, end) = page(&rig, to_4.as_ref()).await.expect("page 4");
        assert_eq!((third, fourth, end), (vec![image(2)], vec![image(3)], None));
    }
}

#[tokio::test]
async fn tokens_that_expired_or_are_none_of_ec2s_are_refused_with_the_code_of_choice() {
    let rig = start(|settings| {
        settings.token_refusal_code = "InvalidParameterValue".to_owned();
        settings.token_ttl = Duration::from_secs(60);
    })
    .await;
    rig.add(finished(2));
    let (_, token) = page(&rig, None).await.expect("page 1");
    rig.run_for(Duration::from_secs(50)).await;
    page(&rig, token.as_ref()).await.expect("a token that is not a minute old");
    rig.run_for(Duration::from_secs(11)).await;
    assert_eq!(code(page(&rig, token.as_ref()).await), "InvalidParameterValue");
    let made_up = "made-up".to_owned();
    assert_eq!(code(page(&rig, Some(&made_up)).await), "InvalidParameterValue");
}

#[tokio::test]
async fn a_repeated_token_leads_to_the_same_page_without_end() {
    let rig = start(|settings| settings.token_fault = Some(TokenFault::Repeated)).await;
    rig.add(finished(3));
    let (_, token) = page(&rig, None).await.expect("page 1");
    assert!(token.is_some());
    for _ in 0..5 {
        let (second, next) = page(&rig, token.as_ref()).await.expect("page 2");
        assert_eq!((second, &next), (vec![image(1)], &token));
    }
}

#[tokio::test]
async fn two_hundred_filter_values_are_accepted_and_one_more_is_not() {
    let rig = start(|_| {}).await;
    rig.add(finished(1));
    let buckets = |count: usize| {
        let names = (1..count).map(|number| format!("bucket-{number}")).chain([BUCKET.to_owned()]);
        Filter::builder().name("bucket").set_values(Some(names.collect())).build()
    };
    let call = sdk(&rig).describe_store_image_tasks();
    let listed = send(&rig, call.clone().filters(buckets(200))).await.expect("200 values");
    assert_eq!(images(&listed), [image(0)]);
    assert_eq!(code(send(&rig, call.filters(buckets(201))).await), "FilterLimitExceeded");
}

#[tokio::test]
async fn trouble_comes_and_goes_by_the_clock() {
    let mut setup = Setup::default();
    let minute = Duration::from_secs(60);
    setup.simulator.troubles = vec!["UnauthorizedOperation@60s+30s".parse().expect("valid")];
    let rig = setup.start().await;
    let list = || rig.until(async { rig.client().list(at_most(0, all())).await });
    list().await.expect("answered");
    rig.run_for(minute).await;
    assert_eq!(list().await.expect_err("denied").code(), tonic::Code::PermissionDenied);
    rig.run_for(minute / 2).await;
    list().await.expect("answered again");
}

#[tokio::test]
async fn a_bucket_fails_stores_that_start_within_its_time() {
    let second = Duration::from_secs(1);
    let failing = ("5s@0s+30s").parse().expect("valid");
    let rig = start(|settings| {
        settings.failing_buckets.insert(BUCKET.to_owned(), failing);
    })
    .await;
    rig.simulator.add_image(REGION, &image(1));
    let states = async || {
        let output = send(&rig, sdk(&rig).describe_store_image_tasks()).await.expect("listed");
        let tasks = output.store_image_task_results.expect("tasks");
        tasks.into_iter().filter_map(|task| task.store_task_state).collect::<Vec<_>>()
    };
    create(&rig, 1).await.expect("created");
    rig.run_for(4 * second).await;
    assert_eq!(states().await, ["InProgress"]);
    rig.run_for(2 * second).await;
    assert_eq!(states().await, ["Failed"]);
    rig.run_for(30 * second).await;
    create(&rig, 1).await.expect("created");
    rig.run_for(300 * second).await;
    assert_eq!(states().await, ["Completed", "Failed"]);
}

#[tokio::test(start_paused = true)]
async fn a_story_that_goes_on_always_has_running_tasks_and_drops_those_that_are_too_old() {
    let settings = Settings::starting_at(SystemTime::UNIX_EPOCH + 60 * DAY);
    let simulator = Simulator::new(settings);
    let running = |region| {
        let tasks = simulator.tasks(region);
        tasks.iter().filter(|task| task.is_running(simulator.now())).count()
    };
    for _ in 0..200 {
        simulator.keep_running(2);
        simulator.keep_running(2);
        for region in ["us-east-1", "eu-west-1"] {
            assert!((2..=4).contains(&running(region)), "{}", running(region));
        }
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    let failed = |task: &TaskPlan| matches!(task.outcome, Outcome::Fails { .. });
    assert!(simulator.tasks("us-east-1").iter().any(failed));
    let before = simulator.tasks("us-east-1").len();
    tokio::time::advance(32 * DAY).await;
    simulator.keep_running(1);
    assert!(before > 40);
    assert_eq!(simulator.tasks("us-east-1").len(), 1, "EC2 lists no other");
}
