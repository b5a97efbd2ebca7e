//! The control thread with lanes that are played by the test.

use crate::control::console::{self, Letter};
use crate::control::file::tests::{Directory, text};
use crate::control::{Control, Lanes, VERSION, file, http};
use crate::dialer::Dialer;
use pgring_logic::config::{Config, Password};
use pgring_logic::id::{ConnId, Core, Side};
use pgring_logic::mail::{AnswerShape, Mail, Order, Report};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const LANES: u16 = 2;
const CLIENT: (Core, ConnId) = (Core(1), ConnId::new(Side::Client, 5, 1));

/// A control thread, the letters it sends, and its exit code.
struct Stage {
    control: Rc<Control>,
    letters: UnboundedReceiver<(Core, Mail)>,
    ended: UnboundedReceiver<i32>,
}

impl Stage {
    fn new(config: Config, path: PathBuf) -> Self {
        let (post, letters) = unbounded_channel();
        let post = move |core, mail| assert!(post.send((core, mail)).is_ok(), "a lane listens");
        let lanes = Lanes { count: usize::from(LANES), post: Box::new(post), falls: || 0 };
        let (end, ended) = unbounded_channel();
        let config =
            Config { admin_users: vec!["root".into()], stats_users: vec!["eve".into()], ..config };
        let (news, _) = unbounded_channel();
        let (deeds, _) = unbounded_channel();
        let control = Rc::new(Control::new(
            Arc::new(config),
            path,
            lanes,
            (end, news, deeds),
            Dialer::default(),
        ));
        Self { control, letters, ended }
    }

    fn say(&self, user: &str, text: &str, shape: AnswerShape) {
        let letter = Letter { user: user.into(), text: text.to_owned(), shape };
        console::receive(&self.control, CLIENT, letter);
    }

    /// The next letter that is none the lanes answer by themselves.
    async fn next(&mut self) -> (Core, Mail) {
        loop {
            let (core, mail) = self.letters.recv().await.expect("the control thread lives");
            let Mail::Ask(number) = mail else { return (core, mail) };
            let report = Report { core, number, ..Report::default() };
            self.control.take(Mail::Report(Box::new(report)));
        }
    }

    async fn answer(&mut self) -> Vec<u8> {
        let (core, mail) = self.next().await;
        let Mail::Answer { conn, bytes } = mail else { panic!("not an answer: {mail:?}") };
        assert_eq!((core, conn), CLIENT);
        bytes
    }

    /// Takes one order for each lane: its number, and what it is.
    async fn order(&mut self) -> (u64, Order) {
        let mut orders = Vec::new();
        for _ in 0..LANES {
            let (_, mail) = self.next().await;
            let Mail::Order { number, order } = mail else { panic!("not an order: {mail:?}") };
            orders.push((number, order));
        }
        assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "the same for each lane");
        orders.swap_remove(0)
    }

    fn done(&self, number: u64, cores: impl IntoIterator<Item = u16>) {
        for core in cores {
            self.control.take(Mail::Done { core: Core(core), number, error: None });
        }
    }
}

/// Whether `text` stands in `bytes`.
fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn show_is_answered_in_the_shape_that_was_asked_for() {
    tokio_uring::start(async {
        let mut stage = Stage::new(Config::default(), PathBuf::new());
        stage.say("eve", "show version", AnswerShape::Simple);
        let bytes = stage.answer().await;
        assert!(bytes[0] == b'T' && has(&bytes, VERSION) && bytes.ends_with(b"I"));

        stage.say("eve", "show pools", AnswerShape::DescribeStatement);
        stage.say("eve", "show pools", AnswerShape::Execute);
        let bytes = stage.answer().await;
        assert!(bytes[0] == b't' && has(&bytes, "cl_active") && !has(&bytes, "SHOW"));
        assert_eq!(stage.answer().await, b"C\0\0\0\x09SHOW\0");
    });
}

#[test]
fn who_may_only_look_changes_nothing() {
    tokio_uring::start(async {
        let mut stage = Stage::new(Config::default(), PathBuf::new());
        for (user, text, code) in [
            ("eve", "kill_client 1", "42501"),
            ("eve", "shutdown", "42501"),
            ("bob", "show pools", "42501"),
            ("bob", "nonsense", "42501"),
            ("eve", "nonsense", "42601"),
            ("root", "pause nowhere", "3D000"),
            ("root", "kill_client 9", "42704"),
        ] {
            stage.say(user, text, AnswerShape::Simple);
            let bytes = stage.answer().await;
            assert!(bytes[0] == b'E' && has(&bytes, code), "{user}: {text}");
        }
        assert!(stage.ended.try_recv().is_err());
    });
}

#[test]
fn pause_is_answered_when_every_lane_is_done_or_resume_ends_it() {
    tokio_uring::start(async {
        let mut stage = Stage::new(Config::default(), PathBuf::new());
        stage.say("root", "PAUSE", AnswerShape::Simple);
        let (number, order) = stage.order().await;
        assert_eq!(order, Order::Pause(None));
        stage.done(number, [0]);
        tokio::task::yield_now().await;
        assert!(stage.letters.try_recv().is_err(), "one lane is not done yet");
        stage.done(number, [1]);
        assert!(has(&stage.answer().await, "PAUSE"));

        stage.say("root", "PAUSE", AnswerShape::Simple);
        stage.order().await;
        let other = (Core(0), ConnId::new(Side::Client, 6, 1));
        let letter =
            Letter { user: "root".into(), text: "resume".into(), shape: AnswerShape::Simple };
        console::receive(&stage.control, other, letter);
        assert!(matches!(stage.order().await, (_, Order::Resume(None))));
        assert!(has(&stage.answer().await, "57014"), "the pause has ended");
    });
}

#[test]
fn a_bad_file_is_refused_whole_and_a_good_one_reaches_every_lane() {
    tokio_uring::start(async {
        let directory = Directory::new("reload");
        directory.write("users.txt", "\"alice\" \"secret\"\n");
        let path = directory.write("pgring.toml", &text("127.0.0.1:5432", ""));
        let mut stage = Stage::new(file::read(&path).unwrap(), path);
        let before = Arc::clone(&stage.control.state.borrow().config);

        let more = "admin_users = [\"root\"]\nworkers = 9\n[pool]\nsize = 7\n";
        directory.write("pgring.toml", &text("127.0.0.1:5433", "nonsense = 1"));
        stage.say("root", "RELOAD", AnswerShape::Simple);
        let bytes = stage.answer().await;
        assert!(has(&bytes, "F0000") && has(&bytes, "nonsense"));
        assert!(Arc::ptr_eq(&before, &stage.control.state.borrow().config));

        directory.write("pgring.toml", &text("127.0.0.1:5433", more));
        stage.say("root", "RELOAD", AnswerShape::Simple);
        for core in 0..LANES {
            let (to, mail) = stage.next().await;
            let Mail::Config(config) = mail else { panic!("not a config: {mail:?}") };
            assert_eq!((to, config.pool.size, config.workers), (Core(core), 7, 0));
            assert!(config.users["alice"].verifier.is_some());
        }
        let bytes = stage.answer().await;
        assert!(has(&bytes, "workers changes only with a restart") && has(&bytes, "RELOAD"));
    });
}

#[test]
fn keys_are_derived_off_the_thread() {
    tokio_uring::start(async {
        let mut stage = Stage::new(Config::default(), PathBuf::new());
        let conn = ConnId::new(Side::Server, 3, 1);
        let password = Password("pencil".to_owned());
        let salt = b"salt".to_vec();
        stage.control.take(Mail::Derive { core: Core(1), conn, password, salt, iterations: 4096 });
        let (core, mail) = stage.next().await;
        let Mail::Derived { conn: to, salted } = mail else { panic!("{mail:?}") };
        assert_eq!((core, to), (Core(1), conn));
        assert_eq!(salted, pgring_wire::auth::scram::salted_password(b"pencil", b"salt", 4096));
    });
}

#[test]
fn the_process_ends_when_it_is_drained_or_asked_twice() {
    tokio_uring::start(async {
        let mut stage = Stage::new(Config::default(), PathBuf::new());
        stage.say("root", "SHUTDOWN WAIT_FOR_CLIENTS", AnswerShape::Simple);
        assert!(has(&stage.answer().await, "SHUTDOWN"));
        let (number, order) = stage.order().await;
        assert_eq!(order, Order::DrainClients);
        assert!(stage.ended.try_recv().is_err());
        stage.done(number, 0..LANES);
        assert_eq!(stage.ended.recv().await, Some(0));

        let mut stage = Stage::new(Config::default(), PathBuf::new());
        stage.control.drain(Order::DrainServers);
        stage.control.drain(Order::DrainServers);
        assert_eq!(stage.ended.recv().await, Some(0));
    });
}

/// What a GET of `path` gives.
async fn get(stage: &mut Stage, port: u16, path: &str) -> String {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: pgring\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    tokio::select! {
        text = ask => text,
        (_, mail) = stage.next() => panic!("HTTP sends no letter but questions: {mail:?}"),
    }
}

#[test]
fn http_tells_health_and_metrics() {
    tokio_uring::start(async {
        let mut stage = Stage::new(Config::default(), PathBuf::new());
        let listener = http::listen("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::task::spawn_local(http::serve(listener, Rc::clone(&stage.control)));

        assert!(get(&mut stage, port, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(&mut stage, port, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(&mut stage, port, "/nothing").await.starts_with("HTTP/1.1 404"));
        let metrics = get(&mut stage, port, "/metrics").await;
        assert!(metrics.contains("pgring_lanes 2") && metrics.contains("text/plain"), "{metrics}");

        stage.control.drain(Order::DrainClients);
        stage.order().await;
        let ready = get(&mut stage, port, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("shutting down"), "{ready}");
    });
}
