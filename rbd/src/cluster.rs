//! A cluster and its pools, as librados has them.

use crate::bindings::{self, rados_ioctx_t, rados_omap_iter_t, rados_read_op_t, rados_t, size_t, timeval};
use crate::calls::{ConnectOptions, Failure, LockedBy, PoolPlace, Stage};
use crate::errno::{EINVAL, ENOENT, ERANGE};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{null, null_mut};
use std::sync::Arc;

/// The library that is opened; librados comes with it.
const LIBRARY: &str = "librbd.so.1";

/// What the answer about a lock may take at first, in bytes.
const BUFFER: usize = 4096;
/// And at most: more is no answer.
const LIMIT: usize = 1 << 24;

/// Ceph's libraries.
#[derive(Clone)]
pub(crate) struct CephLibrary(pub(crate) Arc<bindings::Library>);

impl CephLibrary {
    /// Opens them, or says why not.
    pub(crate) fn open() -> Result<Self, String> {
        // SAFETY: Ceph's library runs nothing when it is opened but constructors of its own, and has the functions that the
        // bindings were made of; one that lacks any is refused.
        let opened = unsafe {
            libloading::Library::new(LIBRARY).and_then(|library| bindings::Library::from_library(library))
        };
        opened.map(|library| Self(Arc::new(library))).map_err(|error| error.to_string())
    }
}

/// A string as C has it; one with a NUL byte is none.
pub(crate) fn c_string(text: &str, stage: Stage) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure { stage, errno: EINVAL })
}

/// What a call returned: negative is an error.
pub(crate) fn checked(returned: c_int, stage: Stage) -> Result<c_int, Failure> {
    if returned < 0 { Err(Failure { stage, errno: -returned }) } else { Ok(returned) }
}

/// A string of C, copied; none is empty.
///
/// # Safety
///
/// `text` is null or points to bytes that end with a NUL and stay as they are meanwhile.
pub(crate) unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller has it
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Strings that stand one after the other, each with a NUL at its end.
pub(crate) fn separated(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// A cluster that is connected.
pub(crate) struct RadosCluster {
    pub(crate) library: CephLibrary,
    handle: rados_t,
}

// SAFETY: librados' own locks keep a handle whole, however many threads use it (librados.h: "thread safe").
unsafe impl Send for RadosCluster {}
// SAFETY: the same
unsafe impl Sync for RadosCluster {}

impl Drop for RadosCluster {
    fn drop(&mut self) {
        // SAFETY: the handle was made by rados_create2, and nothing that was made of it outlives this value
        unsafe { (self.library.0.rados_shutdown)(self.handle) };
    }
}

impl RadosCluster {
    /// Connects, which takes at most the time that the options give.
    pub(crate) fn connect(library: &CephLibrary, options: &ConnectOptions) -> Result<Self, Failure> {
        let text = |text: &str| c_string(text, Stage::Connect);
        let (name, user) = (text("ceph")?, text(&format!("client.{}", options.user))?);
        let mut handle: rados_t = null_mut();
        // SAFETY: both strings live through the call, which sets the handle if it returns 0
        let created = unsafe { (library.0.rados_create2)(&mut handle, name.as_ptr(), user.as_ptr(), 0) };
        checked(created, Stage::Connect)?;
        let cluster = Self { library: library.clone(), handle };
        let conf = options.conf.as_deref().map(text).transpose()?;
        if conf.is_some() || options.mon_host.is_none() {
            let path = conf.as_ref().map_or(null(), |conf| conf.as_ptr());
            // SAFETY: the handle is made and not connected yet; the path is null, for Ceph's own, or lives through the call
            let read = unsafe { (cluster.library.0.rados_conf_read_file)(cluster.handle, path) };
            checked(read, Stage::Connect)?;
        }
        cluster.set("client_mount_timeout", &options.mount_timeout.to_string())?;
        // one thread is enough for a few questions
        cluster.set("ms_async_op_threads", "1")?;
        cluster.set("rbd_cache", "false")?;
        for (option, value) in [("mon_host", &options.mon_host), ("keyfile", &options.keyfile)] {
            if let Some(value) = value {
                cluster.set(option, value)?;
            }
        }
        // SAFETY: the handle is made and not connected yet
        checked(unsafe { (cluster.library.0.rados_connect)(cluster.handle) }, Stage::Connect)?;
        Ok(cluster)
    }

    fn set(&self, option: &str, value: &str) -> Result<(), Failure> {
        let (option, value) = (c_string(option, Stage::Connect)?, c_string(value, Stage::Connect)?);
        // SAFETY: the handle is made; both strings live through the call
        let set = unsafe { (self.library.0.rados_conf_set)(self.handle, option.as_ptr(), value.as_ptr()) };
        checked(set, Stage::Connect).map(drop)
    }

    /// A pool, and one of its namespaces.
    pub(crate) fn pool(&self, place: &PoolPlace) -> Result<OpenPool<'_>, Failure> {
        let name = c_string(&place.pool, Stage::Pool)?;
        let mut handle: rados_ioctx_t = null_mut();
        // SAFETY: the cluster is connected; the name lives through the call, which sets the handle if it returns 0
        let created = unsafe { (self.library.0.rados_ioctx_create)(self.handle, name.as_ptr(), &mut handle) };
        checked(created, Stage::Pool)?;
        let pool = OpenPool { cluster: self, handle, namespace: place.namespace.clone() };
        if let Some(namespace) = &place.namespace {
            let namespace = c_string(namespace, Stage::Pool)?;
            // SAFETY: the handle is that of a pool; the name lives through the call, which copies it
            unsafe { (self.library.0.rados_ioctx_set_namespace)(pool.handle, namespace.as_ptr()) };
        }
        Ok(pool)
    }
}

/// A pool, in one of its namespaces.
pub(crate) struct OpenPool<'a> {
    pub(crate) cluster: &'a RadosCluster,
    pub(crate) handle: rados_ioctx_t,
    namespace: Option<String>,
}

impl Drop for OpenPool<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle was made by rados_ioctx_create, and no image of it outlives this value
        unsafe { (self.cluster.library.0.rados_ioctx_destroy)(self.handle) };
    }
}

/// Of an object's omap.
type KeyAndValue = (Vec<u8>, Vec<u8>);

impl OpenPool<'_> {
    pub(crate) fn library(&self) -> &bindings::Library {
        &self.cluster.library.0
    }

    /// Where an image could not be opened since something is not there: its namespace, the image itself, or something
    /// behind it.
    pub(crate) fn what_is_missing(&self, image: &str, failure: Failure) -> Failure {
        let stage = match (self.has_its_namespace(), self.has_object(&format!("rbd_id.{image}"))) {
            (Ok(false), _) => Stage::Pool,
            (Ok(true), Ok(false)) => Stage::Image,
            (Ok(true), Ok(true)) => Stage::Call,
            (Err(other), _) | (_, Err(other)) => return other,
        };
        Failure { stage, ..failure }
    }

    fn has_its_namespace(&self) -> Result<bool, Failure> {
        let Some(namespace) = &self.namespace else { return Ok(true) };
        let namespace = c_string(namespace, Stage::Pool)?;
        let mut exists = false;
        // SAFETY: the name lives through the call, which sets the answer
        let asked =
            unsafe { (self.library().rbd_namespace_exists)(self.handle, namespace.as_ptr(), &mut exists) };
        checked(asked, Stage::Pool).map(|_| exists)
    }

    fn has_object(&self, object: &str) -> Result<bool, Failure> {
        let object = c_string(object, Stage::Call)?;
        let (mut size, mut time) = (0, 0);
        // SAFETY: the name and the numbers live through the call, which sets them
        let found =
            unsafe { (self.library().rados_stat)(self.handle, object.as_ptr(), &mut size, &mut time) };
        match checked(found, Stage::Call) {
            Err(Failure { errno: ENOENT, .. }) => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// The value of a key of an object; `None`: no such object or key.
    pub(crate) fn omap_value(&self, object: &str, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        let key_text = c_string(key, Stage::Call)?;
        let (keys, lengths) = ([key_text.as_ptr()], [key.len() as size_t]);
        let asked = self.entries(object, |library, operation, found, returned| {
            // SAFETY: keys and lengths have one element each and live until the operation is carried out
            unsafe {
                (library.rados_read_op_omap_get_vals_by_keys2)(
                    operation,
                    keys.as_ptr(),
                    1,
                    lengths.as_ptr(),
                    found,
                    returned,
                );
            }
        });
        asked.map(|entries| entries.into_iter().next().map(|(_, value)| value))
    }

    /// All keys and values of an object, which has none if it is not there. `None`: there are more.
    pub(crate) fn omap(&self, object: &str, most: u64) -> Result<Option<BTreeMap<String, Vec<u8>>>, Failure> {
        let mut more = 0;
        let entries = self.entries(object, |library, operation, found, returned| {
            // SAFETY: `more` lives until the operation is carried out, which sets it
            unsafe {
                (library.rados_read_op_omap_get_vals2)(
                    operation,
                    c"".as_ptr(),
                    c"".as_ptr(),
                    most,
                    found,
                    &mut more,
                    returned,
                );
            }
        })?;
        let text = |key: Vec<u8>| String::from_utf8_lossy(&key).into_owned();
        let entries = entries.into_iter().map(|(key, value)| (text(key), value)).collect();
        Ok((more == 0).then_some(entries))
    }

    /// The keys and values of an object that `ask` asks for. One that is not there has none.
    fn entries(
        &self,
        object: &str,
        ask: impl FnOnce(&bindings::Library, rados_read_op_t, *mut rados_omap_iter_t, *mut c_int),
    ) -> Result<Vec<KeyAndValue>, Failure> {
        let object = c_string(object, Stage::Call)?;
        let library = self.library();
        let (mut found, mut returned) = (null_mut(), 0);
        // SAFETY: `found` and `returned` live until the operation is carried out, which sets them; it is released once, after
        // that
        let operated = unsafe {
            let operation = (library.rados_create_read_op)();
            ask(library, operation, &mut found, &mut returned);
            let operated = (library.rados_read_op_operate)(operation, self.handle, object.as_ptr(), 0);
            (library.rados_release_read_op)(operation);
            operated
        };
        let mut entries = Vec::new();
        while !found.is_null() {
            let (mut at_key, mut at_value, mut key_length, mut length) = (null_mut(), null_mut(), 0, 0);
            // SAFETY: the list was made by the operation; what it points to lives until it is ended, and is copied before
            unsafe {
                let next = (library.rados_omap_get_next2)(
                    found,
                    &mut at_key,
                    &mut at_value,
                    &mut key_length,
                    &mut length,
                );
                if operated != 0 || next != 0 || at_key.is_null() {
                    (library.rados_omap_get_end)(found);
                    found = null_mut();
                } else {
                    entries.push((bytes_at(at_key, key_length), bytes_at(at_value, length)));
                }
            }
        }
        match checked(operated, Stage::Call) {
            Err(Failure { errno: ENOENT, .. }) => Ok(Vec::new()),
            Err(failure) => Err(failure),
            Ok(_) => checked(returned, Stage::Call).map(|_| entries),
        }
    }

    /// Takes a lock; it is held by this client and cookie. Without `seconds` it never ends by itself.
    pub(crate) fn lock(
        &self,
        object: &str,
        name: &str,
        cookie: &str,
        seconds: Option<u64>,
    ) -> Result<(), Failure> {
        let text = |text: &str| c_string(text, Stage::Call);
        let (object, name, cookie) = (text(object)?, text(name)?, text(cookie)?);
        let mut life =
            seconds.map(|seconds| timeval { tv_sec: seconds.min(i64::MAX as u64) as i64, tv_usec: 0 });
        let life = life.as_mut().map_or(null_mut(), |life| life as *mut timeval);
        // SAFETY: the strings live through the call, as does the duration, which is null for none
        let locked = unsafe {
            (self.library().rados_lock_exclusive)(
                self.handle,
                object.as_ptr(),
                name.as_ptr(),
                cookie.as_ptr(),
                c"".as_ptr(),
                life,
                0,
            )
        };
        checked(locked, Stage::Call).map(drop)
    }

    /// Who holds a lock; nobody where there is no such object or lock.
    pub(crate) fn lock_holders(&self, object: &str, name: &str) -> Result<Vec<LockedBy>, Failure> {
        let (object, name) = (c_string(object, Stage::Call)?, c_string(name, Stage::Call)?);
        let mut size = BUFFER;
        loop {
            let [mut tag, mut clients, mut cookies, mut addresses] = [(); 4].map(|()| vec![0_u8; size]);
            let mut exclusive = 0;
            let mut lengths = [size as size_t; 4];
            let [tag_length, clients_length, cookies_length, addresses_length] = &mut lengths;
            // SAFETY: each buffer is as long as the length beside it says; the call writes no more, and sets the lengths
            let listed = unsafe {
                (self.library().rados_list_lockers)(
                    self.handle,
                    object.as_ptr(),
                    name.as_ptr(),
                    &mut exclusive,
                    tag.as_mut_ptr().cast(),
                    tag_length,
                    clients.as_mut_ptr().cast(),
                    clients_length,
                    cookies.as_mut_ptr().cast(),
                    cookies_length,
                    addresses.as_mut_ptr().cast(),
                    addresses_length,
                )
            };
            if listed == -i64::from(ERANGE) && size < LIMIT {
                size *= 4;
                continue;
            }
            let listed = c_int::try_from(listed).unwrap_or(c_int::MAX);
            let count = match checked(listed, Stage::Call) {
                Err(Failure { errno: ENOENT, .. }) => return Ok(Vec::new()),
                other => other? as usize,
            };
            let words = |buffer: &[u8], length: size_t| {
                let mut words = separated(buffer.get(..length as usize).unwrap_or_default());
                // an empty word at the end is no separator
                words.resize(count, String::new());
                words
            };
            let [_, clients_length, cookies_length, addresses_length] = lengths;
            let holders = words(&clients, clients_length)
                .into_iter()
                .zip(words(&cookies, cookies_length))
                .zip(words(&addresses, addresses_length));
            return Ok(holders
                .map(|((client, cookie), address)| LockedBy { client, cookie, address })
                .collect());
        }
    }

    /// Ends a lock that this client or another one holds. That nobody holds it is success.
    pub(crate) fn unlock(&self, object: &str, name: &str, holder: &LockedBy) -> Result<(), Failure> {
        let text = |text: &str| c_string(text, Stage::Call);
        let (object, name) = (text(object)?, text(name)?);
        let (client, cookie) = (text(&holder.client)?, text(&holder.cookie)?);
        // SAFETY: the strings live through the call
        let broken = unsafe {
            (self.library().rados_break_lock)(
                self.handle,
                object.as_ptr(),
                name.as_ptr(),
                client.as_ptr(),
                cookie.as_ptr(),
            )
        };
        match checked(broken, Stage::Call) {
            Err(Failure { errno: ENOENT, .. }) => Ok(()),
            other => other.map(drop),
        }
    }
}

/// # Safety
///
/// `at` is null, or that many bytes are there.
unsafe fn bytes_at(at: *const c_char, length: size_t) -> Vec<u8> {
    if at.is_null() {
        return Vec::new();
    }
    // SAFETY: as the caller has it
    unsafe { std::slice::from_raw_parts(at.cast::<u8>(), length as usize) }.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_with_a_nul() {
        assert_eq!(separated(b""), Vec::<String>::new());
        assert_eq!(separated(b"\0"), Vec::<String>::new());
        assert_eq!(separated(b"one\0"), ["one"]);
        assert_eq!(separated(b"one\0\0two\0"), ["one", "", "two"]);
    }

    #[test]
    fn a_nul_byte_is_refused() {
        assert_eq!(c_string("a\0b", Stage::Pool), Err(Failure { stage: Stage::Pool, errno: EINVAL }));
    }
}
