//! Torture, temporary.
use chat_client::{Client, Error, Session};
use chat_testkit::Cluster;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery";

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

type Acked = Arc<Mutex<BTreeMap<u64, String>>>;

async fn sender(me: usize, session: Session, stop: Arc<AtomicBool>, acked: Acked, max: Arc<AtomicU64>, mut rng: Rng, fat: bool) -> (u64, Vec<(u64, String)>) {
    let mut n = 0;
    let mut failed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut wave = Vec::new();
        for _ in 0..1 + rng.below(60) {
            let pad = if fat && rng.below(4) == 0 { 60_000 } else { rng.below(200) as usize };
            let text = format!("{me} {n} {}", "x".repeat(pad));
            n += 1;
            wave.push((text.clone(), n - 1, session.submit("bob", &text).await));
        }
        for (text, number, submitted) in wave {
            match submitted {
                Ok(submitted) => match submitted.await {
                    Ok(sent) => {
                        let old = acked.lock().unwrap().insert(sent.seq, text);
                        assert!(old.is_none(), "seq {} acknowledged twice", sent.seq);
                        max.fetch_max(sent.seq, Ordering::SeqCst);
                    }
                    Err(error @ Error::Refused(_)) => panic!("{me}: {number} refused: {error}"),
                    Err(error) => failed.push((number, error.to_string())),
                },
                Err(error) => failed.push((number, error.to_string())),
            }
        }
    }
    (n, failed)
}

async fn reader(bob: Session, stop: Arc<AtomicBool>, max: Arc<AtomicU64>) -> u64 {
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        let least = max.load(Ordering::SeqCst);
        match bob.whoami().await {
            Ok(who) => assert!(who.marks.last >= least, "STALE: {} < {least}", who.marks.last),
            Err(error @ Error::Refused(_)) => panic!("reader: {error}"),
            Err(_) => {}
        }
        reads += 1;
    }
    reads
}

fn check(texts: &[String]) {
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for text in texts {
        let mut words = text.split(' ');
        let who: u64 = words.next().unwrap().parse().unwrap();
        let number: u64 = words.next().unwrap().parse().unwrap();
        let at = next.entry(who).or_insert(0);
        assert!(number >= *at, "sender {who}: {number} after {at}: out of order or doubled");
        *at = number + 1;
    }
}

async fn follower(bob: Session, seen: Arc<Mutex<Vec<String>>>, stop: Arc<AtomicBool>) {
    let mut inbox = bob.inbox_after(0);
    let mut seq = 0;
    loop {
        let Ok(next) = tokio::time::timeout(Duration::from_millis(200), inbox.next()).await else {
            if stop.load(Ordering::Relaxed) { return } else { continue }
        };
        let message = next.unwrap();
        seq += 1;
        assert_eq!(message.seq, seq, "a gap or a repetition on the live stream");
        seen.lock().unwrap().push(message.text);
    }
}

async fn nemesis(cluster: &mut Cluster, rng: &mut Rng) -> String {
    let leader = cluster.leader().await;
    let others: Vec<u32> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let one = others[rng.below(2) as usize];
    let two = others.iter().copied().find(|id| *id != one).unwrap();
    let short = Duration::from_millis(rng.below(400));
    let nap = |ms: u64| tokio::time::sleep(Duration::from_millis(ms));
    match rng.below(9) {
        0 => { cluster.kill(leader).await; nap(rng.below(600)).await; cluster.restart(leader).await; format!("kill leader {leader}") }
        1 => { cluster.kill(one).await; nap(rng.below(600)).await; cluster.restart(one).await; format!("kill {one}") }
        2 => { cluster.kill(leader).await; cluster.kill(one).await; nap(rng.below(1500)).await; cluster.restart(one).await; cluster.restart(leader).await; "kill leader+one".into() }
        3 => { cluster.kill(leader).await; tokio::time::sleep(short).await; cluster.kill(one).await; tokio::time::sleep(short).await; cluster.kill(two).await; for id in [leader, one, two] { cluster.restart(id).await; tokio::time::sleep(short).await; } "kill all".into() }
        4 => { cluster.pause(leader).await; nap(500 + rng.below(1500)).await; cluster.resume(leader); "pause leader".into() }
        5 => { cluster.partition(&[leader], &others); nap(500 + rng.below(2500)).await; cluster.heal(); "partition leader".into() }
        6 => { cluster.partition(&[one], &[leader, two]); nap(rng.below(2500)).await; cluster.kill(leader).await; nap(rng.below(500)).await; cluster.heal(); cluster.restart(leader).await; "partition one, kill leader".into() }
        7 => { cluster.stop(leader).await; tokio::time::sleep(short).await; cluster.restart(leader).await; "stop leader".into() }
        _ => { cluster.cut(leader, one); nap(rng.below(1500)).await; cluster.cut(two, leader); nap(rng.below(1500)).await; cluster.heal(); "cuts".into() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torture() {
    let seed = std::env::var("SEED").ok().map_or_else(|| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64, |s| s.parse().unwrap());
    let steps: u64 = std::env::var("STEPS").ok().map_or(6, |s| s.parse().unwrap());
    let fat = std::env::var("FAT").is_ok();
    println!("SEED={seed}");
    let mut rng = Rng(seed);
    let mut cluster = Cluster::builder().replicas(3).start().await;
    let client = Client::builder().servers(cluster.addresses()).timeout(Duration::from_secs(40)).connect().await.unwrap();
    client.register("bob", PASSWORD).await.unwrap();
    let bob = client.log_in("bob", PASSWORD).await.unwrap();
    let (stop, max, acked, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Acked::default(), Arc::new(Mutex::new(Vec::new())));
    let mut senders = Vec::new();
    for me in 0..3 {
        let name = format!("sender{me}");
        client.register(&name, PASSWORD).await.unwrap();
        let session = client.log_in(&name, PASSWORD).await.unwrap();
        senders.push(tokio::spawn(sender(me, session, stop.clone(), acked.clone(), max.clone(), Rng(rng.next()), fat)));
    }
    let reads = tokio::spawn(reader(bob.clone(), stop.clone(), max.clone()));
    let live_stop = Arc::new(AtomicBool::new(false));
    let live = tokio::spawn(follower(bob.clone(), seen.clone(), live_stop.clone()));
    for _ in 0..steps {
        let began = Instant::now();
        let what = nemesis(&mut cluster, &mut rng).await;
        cluster.whole().await;
        println!("{what}: {:?}, acked {}", began.elapsed(), max.load(Ordering::SeqCst));
    }
    stop.store(true, Ordering::Relaxed);
    for task in senders {
        let (sent, failed) = task.await.unwrap();
        println!("sent {sent}, failed {failed:?}");
    }
    println!("reads {}", reads.await.unwrap());
    let last = bob.whoami().await.unwrap().marks.last;
    let mut inbox = bob.inbox_after(0);
    let mut texts = Vec::new();
    for seq in 1..=last {
        let message = inbox.next().await.unwrap();
        assert_eq!(message.seq, seq);
        texts.push(message.text);
    }
    live_stop.store(true, Ordering::Relaxed);
    live.await.unwrap();
    check(&texts);
    for (seq, text) in acked.lock().unwrap().iter() {
        assert_eq!(&texts[*seq as usize - 1], text, "acknowledged at {seq}");
    }
    assert_eq!(*seen.lock().unwrap(), texts, "the live stream and the mailbox");
    println!("mailbox {last}, acked {}", acked.lock().unwrap().len());
}
