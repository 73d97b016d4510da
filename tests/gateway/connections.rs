//! What no peer can do to the gateway's port: hold it up, fill it up, or keep it from stopping.
//!
//! The clients are raw sockets and raw HTTP/2, since well-behaved libraries do none of this.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use amistore_gateway::proto::{ListStoreImageTasksRequest, ListStoreImageTasksResponse};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, StatusCode, Version};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    task::JoinHandle,
};
use tonic::{Code, Status};

use crate::{
    support::{
        Rig, Setup, Task, all, at_most, cache_status, finished, image, pushback, reason, watch_of,
    },
    wire::{LIST, WATCH},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A raw HTTP/2 connection.
pub(crate) struct Raw {
    pub(crate) sender: SendRequest<Bytes>,
    /// Ends when the connection does.
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A call of a raw connection.
pub(crate) struct Call {
    pub(crate) response: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

impl Raw {
    /// Connects. The client takes this many bytes of each answer before it reads them.
    pub(crate) async fn connect(rig: &Rig, window: u32) -> Self {
        let address = rig.address;
        let handshake = async move {
            let socket = TcpStream::connect(address).await.expect("the gateway listens");
            Builder::new()
                .initial_window_size(window)
                .initial_connection_window_size(1 << 30)
                .handshake(socket)
                .await
                .expect("HTTP/2")
        };
        let (sender, connection) = rig.until(handshake).await;
        Self { sender, connection: tokio::spawn(connection) }
    }

    /// Begins a call. Its body is open.
    fn call(&mut self, path: &str) -> Call {
        let request = Request::post(format!("http://gateway{path}"))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a valid request");
        let (response, body) = self.sender.send_request(request, false).expect("open");
        Call { response, body }
    }

    /// Makes a call with a whole message.
    pub(crate) fn ask(&mut self, path: &str, message: &impl prost::Message) -> Call {
        let mut call = self.call(path);
        call.body.send_data(framed(&message.encode_to_vec()), true).expect("open");
        call
    }

    fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("fits"));
    frame.put_slice(message);
    frame.freeze()
}

/// Reads an answer to its end.
pub(crate) async fn read(mut body: RecvStream) -> Result<(Bytes, HeaderMap), h2::Error> {
    let mut whole = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok((whole.freeze(), body.trailers().await?.unwrap_or_default()))
}

/// The status of a call that was refused without a message.
async fn refused(response: ResponseFuture) -> Status {
    let response = response.await.expect("an answer");
    Status::from_header_map(response.headers()).expect("a grpc-status")
}

/// Whether a socket has been closed by the gateway.
async fn is_closed(socket: &mut TcpStream) -> bool {
    let mut bytes = [0; 64];
    loop {
        match tokio::time::timeout(Duration::from_millis(50), socket.read(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

async fn connect(rig: &Rig) -> TcpStream {
    rig.until(TcpStream::connect(rig.address)).await.expect("the gateway listens")
}

/// Tells the gateway to stop. Returns the seconds that it took, and how it ended.
async fn stop(rig: &mut Rig) -> (f64, Result<(), amistore_gateway::server::ServeError>) {
    let began = tokio::time::Instant::now();
    rig.stop.cancel();
    let served = rig.served.take().expect("not yet taken");
    let ended = rig.until(served).await.expect("no panic");
    (began.elapsed().as_secs_f64(), ended)
}

#[tokio::test]
async fn a_connection_that_does_not_begin_is_closed_after_ten_seconds() {
    let rig = Rig::with_tasks([]).await;
    let mut silent = connect(&rig).await;
    let mut half = connect(&rig).await;
    half.write_all(b"PRI * HTTP/2.0\r\n").await.expect("open");
    rig.run_for(9 * SECOND).await;
    assert!(!rig.until(is_closed(&mut silent)).await && !rig.until(is_closed(&mut half)).await);
    rig.run_for(2 * SECOND).await;
    assert!(rig.until(is_closed(&mut silent)).await && rig.until(is_closed(&mut half)).await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_watch_is_not() {
    let mut setup = Setup::default();
    setup.gateway.connections.idle = 10 * MINUTE;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR)]);
    let idle = Raw::connect(&rig, 65_535).await;
    let mut watching = Raw::connect(&rig, 65_535).await;
    let call = watching.ask(WATCH, &watch_of(&image(1)));
    let mut watch = rig.until(call.response).await.expect("a watch").into_body();
    rig.run_for(9 * MINUTE).await;
    assert!(!idle.is_closed());
    while rig.until(tokio::time::timeout(SECOND, watch.data())).await.is_ok() {}
    rig.run_for(30 * SECOND).await;
    while rig.until(tokio::time::timeout(SECOND, watch.data())).await.is_ok() {}
    rig.run_for(45 * SECOND).await;
    assert!(idle.is_closed());
    assert!(!watching.is_closed());
}

#[tokio::test]
async fn at_the_maximum_age_a_client_is_told_to_go_and_its_watch_goes_on_until_the_grace_is_over() {
    let mut setup = Setup::default();
    setup.gateway.connections.max_age = 100 * SECOND;
    setup.gateway.connections.max_age_grace = 50 * SECOND;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR)]);
    let mut raw = Raw::connect(&rig, 1 << 20).await;
    let call = raw.ask(WATCH, &watch_of(&image(1)));
    let mut watch = rig.until(call.response).await.expect("a watch").into_body();
    rig.run_for(89 * SECOND).await;
    rig.until(poll_fn(|cx| raw.sender.poll_ready(cx))).await.expect("not told to go yet");
    rig.run_for(23 * SECOND).await;
    rig.until(poll_fn(|cx| raw.sender.poll_ready(cx))).await.expect_err("told to go");
    assert!(!raw.is_closed(), "the watch goes on");
    let ended = rig.until(async {
        while let Some(data) = watch.data().await {
            let data = data.expect("no reset");
            watch.flow_control().release_capacity(data.len()).expect("open");
        }
        watch.trailers().await.expect("no reset").expect("trailers")
    });
    let began = tokio::time::Instant::now();
    let status = Status::from_header_map(&ended.await).expect("a status");
    assert_eq!((status.code(), reason(&status).1.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!(pushback(&status).is_some());
    let waited = began.elapsed().as_secs();
    assert!((25..55).contains(&waited), "{waited} s of a grace of 50 s that began up to 23 s ago");
    rig.run_for(2 * SECOND).await;
    assert!(raw.is_closed());
}

#[tokio::test]
async fn a_client_of_http_1_is_told_what_the_port_speaks() {
    let rig = Rig::with_tasks([]).await;
    let mut socket = connect(&rig).await;
    socket.write_all(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n").await.expect("open");
    let mut answer = String::new();
    rig.until(socket.read_to_string(&mut answer)).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{answer}");
    assert!(answer.ends_with("This port speaks gRPC, which needs HTTP/2.\n"), "{answer}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_watch_for_a_minute_loses_the_stream_alone() {
    let rig = Rig::with_tasks([Task::running(&image(1), HOUR)]).await;
    let mut raw = Raw::connect(&rig, 0).await;
    let unread = raw.ask(WATCH, &watch_of(&image(1)));
    let mut unread = rig.until(unread.response).await.expect("a watch").into_body();
    rig.run_for(55 * SECOND).await;
    let early = rig.until(tokio::time::timeout(SECOND / 2, unread.data())).await;
    assert!(early.is_err(), "{early:?}");
    rig.run_for(10 * SECOND).await;
    let reset = rig.until(unread.data()).await.expect("an end").expect_err("no data");
    assert!(reset.is_reset(), "{reset:?}");
    assert!(!raw.is_closed(), "the connection has other calls to make");
}

#[tokio::test]
async fn half_sent_requests_hold_no_more_than_the_bound_and_a_newcomer_is_served() {
    const HALF: usize = (1 << 20) - 1;
    let mut setup = Setup::default();
    setup.gateway.connections.max_inbound_bytes = 16 << 20;
    let rig = setup.start().await;
    rig.add(finished(3));
    let mut message = vec![0; HALF];
    message.splice(0..5, [0, 0, 0x10, 0, 0]);
    let message = Bytes::from(message);
    let mut attackers = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::connect(&rig, 65_535).await;
        for _ in 0..6 {
            let mut call = raw.call(LIST);
            call.body.send_data(message.clone(), false).expect("open");
            calls.push(call);
        }
        attackers.push(raw);
    }
    rig.run_for(SECOND).await;
    rig.until(rig.client().list(all())).await.expect("a newcomer is served");
    let mut shed = 0;
    let mut held = 0;
    for call in calls {
        match rig.until(tokio::time::timeout(SECOND / 10, refused(call.response))).await {
            Ok(status) => {
                assert_eq!(reason(&status).1, "TOO_MANY_BYTES", "{status:?}");
                assert!(pushback(&status).is_some());
                shed += 1;
            }
            Err(_) => held += 1,
        }
    }
    assert!(held <= 16, "{held} of 1 MiB each");
    assert!(held >= 12 && shed >= 32, "{held} held, {shed} shed");
}

#[tokio::test]
async fn unread_answers_hold_no_more_than_the_bound_and_a_newcomer_is_served() {
    let mut setup = Setup::default();
    setup.gateway.connections.max_outbound_bytes = 16 << 20;
    let rig = setup.start().await;
    rig.add(finished(1_000));
    let whole = ListStoreImageTasksRequest { page_size: 1_000, ..all() };
    let answer = rig.until(rig.client().list(whole.clone())).await.expect("answered");
    let bytes = answer.get_ref().encoded_len();
    // A quarter of the bound is for one connection.
    let fitting = (4 << 20) / bytes;
    let mut raw = Raw::connect(&rig, 0).await;
    let calls: Vec<_> = (0..2 * fitting).map(|_| raw.ask(LIST, &whole)).collect();
    rig.run_for(SECOND).await;
    let mut reset = 0;
    for call in calls {
        let mut body = rig.until(call.response).await.expect("headers").into_body();
        if let Ok(Some(Err(_))) = rig.until(tokio::time::timeout(SECOND / 10, body.data())).await {
            reset += 1;
        }
    }
    assert!(reset >= fitting - 1, "{reset} of {} were cut", 2 * fitting);
    assert!(!raw.is_closed());
    let newcomer = rig.until(rig.client().list(whole)).await.expect("served");
    assert_eq!(newcomer.get_ref().tasks.len(), 1_000);
}

#[tokio::test]
async fn a_client_that_cancels_a_thousand_calls_keeps_its_connection() {
    let rig = Rig::with_tasks(finished(3)).await;
    let mut raw = Raw::connect(&rig, 65_535).await;
    let kept = raw.ask(WATCH, &watch_of(&image(0)));
    for _ in 0..1_000 {
        let mut cancelled = raw.ask(LIST, &all());
        cancelled.body.send_reset(h2::Reason::CANCEL);
    }
    let list = raw.ask(LIST, &all());
    let response = rig.until(list.response).await.expect("answered");
    let (message, trailers) = rig.until(read(response.into_body())).await.expect("whole");
    let message = ListStoreImageTasksResponse::decode(&message[5..]).expect("a message");
    assert_eq!((message.tasks.len(), &trailers["grpc-status"]), (3, &"0".parse().expect("ASCII")));
    let watch = rig.until(kept.response).await.expect("answered");
    assert_eq!(watch.status(), StatusCode::OK);
    assert!(!raw.is_closed());
}

/// Invariant 10 (docs/invariants.md): a drain that no peer holds up
#[tokio::test]
async fn silent_and_half_begun_connections_do_not_hold_up_a_drain() {
    let mut rig = Rig::with_tasks([]).await;
    let _silent = connect(&rig).await;
    let mut preface = connect(&rig).await;
    preface.write_all(b"PRI * HTTP/2.0\r\n").await.expect("open");
    let mut idle = connect(&rig).await;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("open");
    let mut half = Raw::connect(&rig, 65_535).await;
    let _half_sent = half.call(LIST);
    rig.run_for(SECOND).await;
    let (seconds, ended) = stop(&mut rig).await;
    ended.expect("nothing was cut");
    assert!(seconds < 1.5, "{seconds} s");
}

/// Invariant 10 (docs/invariants.md): a drain that no peer holds up
#[tokio::test]
async fn clients_that_do_not_read_hold_up_a_drain_for_five_seconds_and_count_as_served() {
    let mut rig = Rig::with_tasks(finished(1_000)).await;
    rig.add([Task::running(&image(5_000), HOUR)]);
    let mut raw = Raw::connect(&rig, 0).await;
    let whole = ListStoreImageTasksRequest { page_size: 1_000, ..all() };
    let _list = raw.ask(LIST, &whole);
    let _watch = raw.ask(WATCH, &watch_of(&image(5_000)));
    rig.run_for(SECOND).await;
    let (seconds, ended) = stop(&mut rig).await;
    ended.expect("clients that do not read count as served");
    assert!((5.0..8.0).contains(&seconds), "{seconds} s");
}

/// Invariant 10 (docs/invariants.md): a drain that no peer holds up
#[tokio::test]
async fn a_client_that_sends_pings_for_ever_holds_up_a_drain_for_ten_seconds() {
    let mut rig = Rig::with_tasks(finished(3)).await;
    let address = rig.address;
    let handshake = async move {
        let socket = TcpStream::connect(address).await.expect("the gateway listens");
        h2::client::handshake(socket).await.expect("HTTP/2")
    };
    let (sender, mut connection) = rig.until(handshake).await;
    let mut pings = connection.ping_pong().expect("not taken");
    let mut raw = Raw { sender, connection: tokio::spawn(connection) };
    let list = raw.ask(LIST, &all());
    let response = rig.until(list.response).await.expect("headers");
    rig.until(read(response.into_body())).await.expect("whole");
    // The client keeps a stream open, so that it does not go away by itself.
    let _open = raw.call(LIST);
    let pinging = tokio::spawn(async move {
        while pings.ping(h2::Ping::opaque()).await.is_ok() {
            tokio::time::sleep(SECOND / 2).await;
        }
    });
    let (seconds, ended) = stop(&mut rig).await;
    ended.expect("nothing was cut");
    assert!((9.0..12.0).contains(&seconds), "{seconds} s");
    pinging.abort();
}

/// Invariant 10 (docs/invariants.md): a drain that loses nothing
#[tokio::test]
async fn a_client_half_way_through_an_answer_gets_it_all_in_a_drain() {
    let mut rig = Rig::with_tasks(finished(1_000)).await;
    let whole = ListStoreImageTasksRequest { page_size: 1_000, ..all() };
    let mut raw = Raw::connect(&rig, 1_000).await;
    let list = raw.ask(LIST, &whole);
    let mut body = rig.until(list.response).await.expect("headers").into_body();
    rig.run_for(SECOND).await;
    let reading = tokio::spawn(async move {
        let mut bytes = 0;
        // A client on a slow line: some kilobytes twice a second.
        while let Some(data) = body.data().await {
            let data = data.expect("not reset");
            bytes += data.len();
            tokio::time::sleep(SECOND / 20).await;
            body.flow_control().release_capacity(data.len()).expect("open");
        }
        (bytes, body.trailers().await.expect("not reset").expect("trailers"))
    });
    let (seconds, ended) = stop(&mut rig).await;
    ended.expect("nothing was cut");
    let (bytes, trailers) = rig.until(reading).await.expect("no panic");
    assert!(bytes > 100_000, "{bytes} bytes");
    assert_eq!(trailers["grpc-status"], "0");
    assert!((4.0..24.0).contains(&seconds), "{seconds} s");
}

/// Invariant 10 (docs/invariants.md): a drain that no peer holds up
#[tokio::test]
async fn a_client_that_reads_too_slowly_is_cut_at_the_end_of_the_drain_and_told_of() {
    let mut rig = Rig::with_tasks(finished(1_000)).await;
    let whole = ListStoreImageTasksRequest { page_size: 1_000, ..all() };
    let mut raw = Raw::connect(&rig, 100).await;
    let list = raw.ask(LIST, &whole);
    let mut body = rig.until(list.response).await.expect("headers").into_body();
    let reading = tokio::spawn(async move {
        while let Some(Ok(data)) = body.data().await {
            tokio::time::sleep(SECOND).await;
            let _ = body.flow_control().release_capacity(data.len());
        }
    });
    rig.run_for(SECOND).await;
    let (seconds, ended) = stop(&mut rig).await;
    let error = ended.expect_err("a call was cut");
    assert_eq!(error.to_string(), "1 calls were still in progress after 25s and were cut off");
    assert!((25.0..25.5).contains(&seconds), "{seconds} s");
    reading.abort();
}

#[tokio::test]
async fn a_second_before_the_end_of_a_drain_a_list_that_waits_for_ec2_is_answered() {
    let mut setup = Setup::default();
    setup.simulator.latency = 10 * SECOND;
    setup.gateway.ec2.attempt_timeout = HOUR;
    setup.gateway.cache.stale_while_revalidate = Duration::ZERO;
    setup.gateway.connections.drain.spread = Duration::ZERO;
    setup.gateway.connections.drain.timeout = 5 * SECOND / 2;
    let mut rig = setup.start().await;
    rig.add(finished(3));
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    rig.run_for(10 * SECOND).await;
    let ask = |request| {
        let client = client.clone();
        tokio::spawn(async move { client.list(request).await })
    };
    let (any, new) = (ask(all()), ask(at_most(0, all())));
    rig.run_for(SECOND / 5).await;
    let (seconds, ended) = stop(&mut rig).await;
    ended.expect("nothing was cut");
    assert!((1.5..2.5).contains(&seconds), "{seconds} s");
    let stale = rig.until(any).await.expect("no panic").expect("old data, which it takes");
    let status = cache_status(&stale);
    assert!(status.contains("stale-if-error"), "{status}");
    let refused = rig.until(new).await.expect("no panic").expect_err("nothing is new enough");
    assert_eq!((refused.code(), reason(&refused).1.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!(pushback(&refused).is_some());
}

#[tokio::test]
async fn watches_end_one_after_the_other_over_the_spread() {
    let mut rig = Rig::with_tasks([Task::running(&image(1), HOUR)]).await;
    let client = rig.client();
    let mut watches = Vec::new();
    for _ in 0..200 {
        let mut stream = rig.until(client.watch(watch_of(&image(1)))).await.expect("open");
        watches.push(tokio::spawn(async move {
            while let Ok(Some(_)) = stream.message().await {}
            tokio::time::Instant::now()
        }));
    }
    rig.run_for(SECOND).await;
    let began = tokio::time::Instant::now();
    let (seconds, ended) = stop(&mut rig).await;
    ended.expect("nothing was cut");
    assert!((4.5..6.5).contains(&seconds), "{seconds} s");
    let mut by_second = [0; 6];
    for watch in watches {
        let after = rig.until(watch).await.expect("no panic") - began;
        by_second[usize::try_from(after.as_secs()).expect("small")] += 1;
    }
    assert!(by_second[..5].iter().all(|ended| (20..60).contains(ended)), "{by_second:?}");
}

#[tokio::test]
async fn while_a_drain_is_delayed_new_connections_are_served() {
    let mut setup = Setup::default();
    setup.gateway.connections.drain.delay = 5 * SECOND;
    let mut rig = setup.start().await;
    rig.add(finished(3));
    rig.stop.cancel();
    rig.run_for(4 * SECOND).await;
    rig.until(rig.client().list(all())).await.expect("still served");
    rig.run_for(2 * SECOND).await;
    let refused = rig.until(rig.client().list(all())).await.expect_err("no longer");
    assert_eq!(refused.code(), Code::Unavailable);
    let served = rig.served.take().expect("not yet taken");
    rig.until(served).await.expect("no panic").expect("nothing was cut");
}

/// A socket from which 4 KiB are read at an interval.
struct SlowSocket {
    socket: TcpStream,
    interval: Duration,
    pause: Pin<Box<tokio::time::Sleep>>,
}

impl SlowSocket {
    async fn connect(rig: &Rig, interval: Duration) -> Self {
        let small = tokio::net::TcpSocket::new_v4().expect("a socket");
        small.set_recv_buffer_size(4096).expect("set");
        let socket = rig.until(small.connect(rig.address)).await.expect("the gateway listens");
        Self { socket, interval, pause: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }
}

impl AsyncRead for SlowSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.pause.as_mut().poll(cx));
        let mut bytes = vec![0; buffer.remaining().min(4096)];
        let mut limited = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut limited))?;
        buffer.put_slice(limited.filled());
        self.pause = Box::pin(tokio::time::sleep(self.interval));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SlowSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Invariant 10 (docs/invariants.md): a drain that loses nothing
#[tokio::test]
async fn an_answer_that_the_system_still_holds_arrives_whole_after_a_drain() {
    let mut rig = Rig::with_tasks(finished(1_000)).await;
    let whole = ListStoreImageTasksRequest { page_size: 1_000, ..all() };
    let expected = rig.until(rig.client().list(whole.clone())).await.expect("answered");
    let bytes = expected.get_ref().encoded_len();
    let socket = SlowSocket::connect(&rig, SECOND / 10).await;
    let windows = async {
        Builder::new()
            // The answer fits. The client opens its windows again when half of them is read.
            .initial_window_size(220_000)
            .initial_connection_window_size(220_000)
            .handshake(socket)
            .await
            .expect("HTTP/2")
    };
    let (sender, connection) = rig.until(windows).await;
    let mut raw = Raw { sender, connection: tokio::spawn(connection) };
    let list = raw.ask(LIST, &whole);
    let response = rig.until(list.response).await.expect("headers");
    let reading = tokio::spawn(read(response.into_body()));
    let (seconds, ended) = stop(&mut rig).await;
    ended.expect("nothing was cut");
    let (message, trailers) = rig.until(reading).await.expect("no panic").expect("whole");
    assert_eq!(
        (message.len(), &trailers["grpc-status"]),
        (bytes + 5, &"0".parse().expect("ASCII"))
    );
    assert!(seconds < 24.0, "{seconds} s");
}
