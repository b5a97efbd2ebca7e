//! Where the record of a cluster is kept: one text under a revision, changed by compare-and-swap
//! only. See [`pgring_logic::record`].
//!
//! Here that is a file for a single pgring. It is replaced as a whole and never written in place,
//! so a crash leaves the old text or the new one. What is not exactly as it was written is an
//! error and never taken for an empty store: who lost the record would begin anew with whatever
//! nodes say of themselves.
//!
//! ```text
//! pgring-record 1 <revision> <SHA-256 of what follows, in hexadecimal>
//! <the text>
//! ```
//!
//! Disks take their time, so the file is touched on threads that may wait, one at a time.

use pgring_logic::record::Revision;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The first words of the file.
const MAGIC: &str = "pgring-record";
/// How the file is laid out.
const VERSION: &str = "1";
/// Only we may read it: texts hold `primary_conninfo`, which may hold a password.
const MODE: u32 = 0o600;
/// No record is larger; who finds a larger file has found something else.
const SIZE_MAX: u64 = 16 * 1024 * 1024;

/// Where a record is kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// In a file of this machine.
    File(Arc<Mutex<Kept>>),
}

/// A file, as long as we have its lock.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    /// Closing it gives the lock back.
    _lock: File,
}

/// Why nothing was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Somebody has written since it was read.
    Stale {
        /// The revision that was given.
        seen: Revision,
        /// The one that is kept.
        kept: Revision,
    },
    /// It may be kept, or not: read it again. In words.
    Failed(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { seen, kept } => {
                write!(f, "the record has changed: revision {kept} is kept, not {seen}")
            }
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl Store {
    /// The store in this file, which need not be there yet. Waits for the disk, but for nobody
    /// else.
    pub fn open(path: &Path) -> Result<Self, String> {
        let kept = Kept { path: path.to_owned(), _lock: lock(path)? };
        Ok(Self::File(Arc::new(Mutex::new(kept))))
    }

    /// What is kept; none if nothing ever was.
    pub async fn read(&self) -> Result<Option<(Revision, String)>, String> {
        self.aside(Kept::read).await?
    }

    /// Keeps this text instead of what was read with the revision `seen`; 0 if nothing was. Gives
    /// the new revision.
    pub async fn write(&self, seen: Revision, text: &str) -> Result<Revision, Refused> {
        let text = text.to_owned();
        self.aside(move |kept| kept.write(seen, &text)).await.map_err(Refused::Failed)?
    }

    /// Does something on a thread that may wait. The lock goes there, too: whoever gives up on
    /// the answer does not let another one in.
    async fn aside<T, F>(&self, work: F) -> Result<T, String>
    where
        T: Send + 'static,
        F: FnOnce(&Kept) -> T + Send + 'static,
    {
        let Self::File(kept) = self;
        let kept = Arc::clone(kept).lock_owned().await;
        let done = tokio::task::spawn_blocking(move || work(&kept)).await;
        done.map_err(|why| format!("the record: {why}"))
    }
}

impl Kept {
    fn read(&self) -> Result<Option<(Revision, String)>, String> {
        let say = |why: io::Error| format!("{}: {why}", self.path.display());
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(say(why)),
        };
        let mut bytes = Vec::new();
        file.take(SIZE_MAX + 1).read_to_end(&mut bytes).map_err(say)?;
        parse(&bytes).map(Some).map_err(|why| {
            format!(
                "{}: {why}. It says who the primary is, so nothing is guessed: put a good copy \
                 back, or move it away, make sure that only one node takes writes, and let pgring \
                 begin anew",
                self.path.display()
            )
        })
    }

    fn write(&self, seen: Revision, text: &str) -> Result<Revision, Refused> {
        let kept = self.read().map_err(Refused::Failed)?.map_or(0, |(revision, _)| revision);
        if kept != seen {
            return Err(Refused::Stale { seen, kept });
        }
        let next = seen + 1;
        let draft = beside(&self.path, ".new");
        replace(&self.path, &draft, &format(next, text)).map_err(|why| {
            Refused::Failed(format!("{}: {why}; the record is not kept", self.path.display()))
        })?;
        Ok(next)
    }
}

/// Writes the whole file anew. When this is done, it outlives a crash of the machine.
fn replace(path: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(draft) {
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(draft, path)?;
    File::open(folder(path))?.sync_all()
}

/// Takes the lock of a record, which goes with the process.
fn lock(path: &Path) -> Result<File, String> {
    let name = beside(path, ".lock");
    let say = |why: io::Error| format!("{}: {why}", name.display());
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(MODE);
    let mut file = options.open(&name).map_err(|why| {
        let folder = folder(path);
        if why.kind() == ErrorKind::NotFound && !folder.is_dir() {
            return format!("there is no folder {} for the record; make it", folder.display());
        }
        say(why)
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _unsaid = (&file).take(20).read_to_string(&mut holder);
            return Err(format!(
                "{} is in use by another pgring (process {}); each needs a file of its own",
                path.display(),
                holder.trim()
            ));
        }
        Err(why) => return Err(say(why.into())),
    }
    let holder = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(say)?;
    Ok(file)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn format(revision: Revision, text: &str) -> Vec<u8> {
    format!("{MAGIC} {VERSION} {revision} {}\n{text}", hash(text.as_bytes())).into_bytes()
}

/// What a file says, or what is wrong with it.
fn parse(bytes: &[u8]) -> Result<(Revision, String), String> {
    if bytes.len() as u64 > SIZE_MAX {
        return Err("it is far too large for a record".to_owned());
    }
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (head, text) = bytes.split_at(end.ok_or("its first line is cut off")?);
    let text = &text[1..];
    let head = str::from_utf8(head).unwrap_or_default();
    let words: Vec<&str> = head.split(' ').collect();
    let (revision, wanted) = match words[..] {
        [MAGIC, VERSION, revision, hash] => (revision, hash),
        [MAGIC, version, ..] if version != VERSION => {
            return Err(format!("it is of version {version:?}, and {VERSION} is known here"));
        }
        _ => return Err("its first line is none of a record".to_owned()),
    };
    let revision: Revision =
        revision.parse().map_err(|_| format!("{revision:?} is no revision"))?;
    if revision == 0 {
        return Err("its revision is 0".to_owned());
    }
    if hash(text) != wanted {
        return Err("it is damaged or cut off: its checksum is another".to_owned());
    }
    let text = String::from_utf8(text.to_vec()).map_err(|_| "it is no text".to_owned())?;
    Ok((revision, text))
}

fn hash(bytes: &[u8]) -> String {
    let mut hex = String::new();
    for byte in Sha256::digest(bytes) {
        // Writing to a string never fails.
        let _ok = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::{Refused, Store, format, parse};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};

    /// A folder that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("pgring-store-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&path));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("main.record")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        // The runtime of the control thread.
        tokio_uring::start(work)
    }

    fn read(path: &Path) -> Result<Option<(u64, String)>, String> {
        run(Store::open(path).unwrap().read())
    }

    #[test]
    fn a_text_is_replaced_only_by_who_has_read_it() {
        let folder = Folder::new("swap");
        run(async {
            let store = Store::open(&folder.file()).unwrap();
            assert_eq!(store.read().await, Ok(None));
            assert_eq!(store.write(1, "x").await, Err(Refused::Stale { seen: 1, kept: 0 }));
            assert_eq!(store.write(0, "one\n").await, Ok(1));
            assert_eq!(store.write(0, "x").await, Err(Refused::Stale { seen: 0, kept: 1 }));
            assert_eq!(store.write(1, "").await, Ok(2));
            let both = tokio::join!(store.write(2, "left"), store.write(2, "right"));
            assert_eq!(both, (Ok(3), Err(Refused::Stale { seen: 2, kept: 3 })));
            assert_eq!(store.read().await, Ok(Some((3, "left".to_owned()))));
        });
        assert_eq!(read(&folder.file()), Ok(Some((3, "left".to_owned()))));
        assert_eq!(fs::metadata(folder.file()).unwrap().mode() & 0o777, 0o600);
        let names = fs::read_dir(&folder.0).unwrap().count();
        assert_eq!(names, 2, "the record and its lock");
    }

    #[test]
    fn a_second_process_is_told_who_was_first() {
        let folder = Folder::new("lock");
        let first = Store::open(&folder.file()).unwrap();
        let why = Store::open(&folder.file()).unwrap_err();
        assert!(why.contains("another pgring"), "{why}");
        assert!(why.contains(&format!("process {}", std::process::id())), "{why}");
        drop(first);
        Store::open(&folder.file()).unwrap();
    }

    #[test]
    fn a_write_that_nobody_waits_for_ends_before_another_begins() {
        let folder = Folder::new("given-up");
        run(async {
            let store = Store::open(&folder.file()).unwrap();
            let given_up = tokio::time::timeout(std::time::Duration::ZERO, store.write(0, "a"));
            let given_up = async { drop(given_up.await) };
            let after = store.write(0, "b");
            let ((), after) = tokio::join!(given_up, after);
            let kept = store.read().await.unwrap().map(|(_, text)| text);
            match after {
                Ok(revision) => assert_eq!((revision, kept.as_deref()), (1, Some("b"))),
                Err(why) => assert_eq!(
                    (why, kept.as_deref()),
                    (Refused::Stale { seen: 0, kept: 1 }, Some("a"))
                ),
            }
        });
    }

    #[test]
    fn what_is_torn_at_any_place_is_no_record_and_not_nothing() {
        let folder = Folder::new("torn");
        let whole = format(12, "epoch = 1\nprimary = \"pg1\"\n");
        assert_eq!(parse(&whole).map(|(revision, _)| revision), Ok(12));
        let store = Store::open(&folder.file()).unwrap();
        for length in 0..whole.len() {
            fs::write(folder.file(), &whole[..length]).unwrap();
            let why = run(store.read()).expect_err("a part of it");
            assert!(why.contains("put a good copy back"), "{length}: {why}");
            let refused = run(store.write(12, "x"));
            assert!(matches!(refused, Err(Refused::Failed(_))), "{length}: {refused:?}");
            assert_eq!(fs::read(folder.file()).unwrap(), &whole[..length]);
        }
    }

    #[test]
    fn what_has_changed_by_a_bit_is_no_record() {
        let whole = format(12, "epoch = 1\n");
        let revision = whole.iter().position(|byte| *byte == b'1').unwrap() + 2;
        for at in 0..whole.len() {
            // The number of the revision is all that the checksum does not cover.
            if (revision..revision + 2).contains(&at) {
                continue;
            }
            for bit in 0..8 {
                let mut wrong = whole.clone();
                wrong[at] ^= 1 << bit;
                assert!(parse(&wrong).is_err(), "byte {at}, bit {bit}");
            }
        }
        let text = |text: &str| parse(text.as_bytes()).expect_err(text);
        assert!(text("pgring-record 2 1 x y\n").contains("version \"2\""));
        assert!(text("[clusters]\n").contains("none of a record"));
        let zero = String::from_utf8(format(0, "")).unwrap();
        assert!(text(&zero).contains("revision is 0"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = Folder::new("missing");
        let why = Store::open(&folder.0.join("none/main.record")).unwrap_err();
        assert!(why.contains("there is no folder") && why.contains("none"), "{why}");
        // As root one may write everywhere, so a folder stands where the file should be.
        fs::create_dir(folder.file()).unwrap();
        let store = Store::open(&folder.file()).unwrap();
        assert!(run(store.read()).is_err());
        assert!(matches!(run(store.write(0, "x")), Err(Refused::Failed(_))));
    }

    #[test]
    fn what_may_not_be_written_is_said_and_changes_nothing() {
        let folder = Folder::new("rights");
        let store = Store::open(&folder.file()).unwrap();
        assert_eq!(run(store.write(0, "one")), Ok(1));
        let rights =
            |mode| fs::set_permissions(&folder.0, fs::Permissions::from_mode(mode)).unwrap();
        rights(0o500);
        let bound = fs::write(folder.0.join("probe"), "").is_err();
        let refused = run(store.write(1, "two"));
        rights(0o700);
        if bound {
            assert!(matches!(refused, Err(Refused::Failed(_))), "{refused:?}");
        }
        let place = beside_a_draft(&folder.file());
        let refused = run(store.write(if bound { 1 } else { 2 }, "three"));
        assert!(
            matches!(&refused, Err(Refused::Failed(why)) if why.contains("not kept")),
            "{refused:?}"
        );
        fs::remove_dir(place).unwrap();
        assert!(matches!(run(store.read()), Ok(Some((1 | 2, _)))));
    }

    /// A folder where the draft should be: even root cannot write it.
    fn beside_a_draft(path: &Path) -> PathBuf {
        let place = super::beside(path, ".new");
        fs::create_dir(&place).unwrap();
        place
    }
}
