/* Stands for Ceph's libraries where memory is watched: it gives out what they give out, each piece in memory of its own and
 * not a byte longer than it is, and ends the program if it is used in another order than they may be. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rados/librados.h>
#include <rbd/librbd.h>

struct cluster { int connected, pools; };
struct pool { struct cluster *cluster; int images; };
struct image { struct pool *pool; char *name; int writable; };

/* ---- a cluster */

int rados_create2(rados_t *handle, const char *const cluster, const char *const name, uint64_t flags) {
  assert(!strcmp(cluster, "ceph") && !strncmp(name, "client.", 7) && flags == 0);
  *handle = calloc(1, sizeof(struct cluster));
  return 0;
}
int rados_conf_read_file(rados_t handle, const char *path) { return path && !strcmp(path, "/none") ? -ENOENT : handle ? 0 : -EINVAL; }
int rados_conf_set(rados_t handle, const char *option, const char *value) { return handle && *option && *value ? 0 : -EINVAL; }
int rados_connect(rados_t handle) { ((struct cluster *)handle)->connected = 1; return 0; }
void rados_shutdown(rados_t handle) { assert(((struct cluster *)handle)->pools == 0); free(handle); }

int rados_ioctx_create(rados_t handle, const char *name, rados_ioctx_t *made) {
  struct cluster *cluster = handle;
  assert(cluster->connected);
  if (!strcmp(name, "none")) return -ENOENT;
  struct pool *pool = calloc(1, sizeof *pool);
  pool->cluster = cluster;
  __atomic_add_fetch(&cluster->pools, 1, __ATOMIC_SEQ_CST);
  *made = pool;
  return 0;
}
void rados_ioctx_destroy(rados_ioctx_t handle) {
  struct pool *pool = handle;
  assert(pool->images == 0);
  __atomic_sub_fetch(&pool->cluster->pools, 1, __ATOMIC_SEQ_CST);
  free(pool);
}
void rados_ioctx_set_namespace(rados_ioctx_t handle, const char *name) { assert(handle && *name); }
int rados_stat(rados_ioctx_t handle, const char *object, uint64_t *size, time_t *time) {
  assert(handle && !strncmp(object, "rbd_id.", 7));
  *size = 1, *time = 1;
  return strstr(object, "absent") ? -ENOENT : 0;
}

/* ---- keys of an object */

struct operation { char *key; struct list **found; int *returned; };
struct list { char *key; char *value; size_t length; int told; struct list *next; };

/* of an image that is looked at without being opened */
static struct list *entry(struct list *next, const char *key, const void *value, size_t length) {
  struct list *made = calloc(1, sizeof *made);
  made->key = strdup(key), made->value = malloc(length ? length : 1), made->length = length, made->next = next;
  memcpy(made->value, value, length);
  return made;
}
static struct list *header(const char *object) {
  struct list *all = entry(NULL, "size", "\0\0\x80\0\0\0\0\0", 8);
  all = entry(all, "features", "\x40\0\0\0\0\0\0\0", 8);
  all = entry(all, "metadata_onemirror.handoff", "1:site-a:open", 13);
  all = entry(all, "metadata_empty", "", 0);
  return strstr(object, "clone") ? entry(all, "parent", "?", 1) : all;
}
int rados_read(rados_ioctx_t io, const char *object, char *buffer, size_t length, uint64_t from) {
  assert(io && length >= 100 && from == 0 && !strncmp(object, "rbd_id.", 7));
  if (strstr(object, "absent")) return -ENOENT;
  /* others have none, and are opened */
  if (!strstr(object, "shown")) return 0;
  uint32_t id = strlen(object + 7);
  memcpy(buffer, &id, 4), memcpy(buffer + 4, object + 7, id);
  return 4 + id;
}

rados_read_op_t rados_create_read_op(void) { return calloc(1, sizeof(struct operation)); }
void rados_release_read_op(rados_read_op_t handle) { free(((struct operation *)handle)->key); free(handle); }
void rados_read_op_omap_get_vals_by_keys2(rados_read_op_t handle, char const *const *keys, size_t number, const size_t *lengths,
                                          rados_omap_iter_t *found, int *returned) {
  struct operation *operation = handle;
  assert(number == 1);
  operation->key = strndup(keys[0], lengths[0]);
  operation->found = (struct list **)found, operation->returned = returned;
}
void rados_read_op_omap_get_vals2(rados_read_op_t handle, const char *after, const char *prefix, uint64_t most, rados_omap_iter_t *found,
                                  unsigned char *more, int *returned) {
  struct operation *operation = handle;
  assert(!*after && !*prefix && most > 4);
  *more = 0, operation->found = (struct list **)found, operation->returned = returned;
}
int rados_read_op_operate(rados_read_op_t handle, rados_ioctx_t io, const char *object, int flags) {
  struct operation *operation = handle;
  assert(io && flags == 0);
  if (strstr(object, "absent")) return -ENOENT;
  struct list *list = NULL;
  if (!operation->key) list = header(object);
  else if (!strcmp(operation->key, "key")) list = entry(NULL, "key", "a\0b", 3);
  else if (!strncmp(operation->key, "image_", 6) && !strstr(operation->key, "plain")) list = entry(NULL, operation->key, "?", 1);
  *operation->found = list ? list : calloc(1, sizeof *list), *operation->returned = 0;
  return 0;
}
int rados_omap_get_next2(rados_omap_iter_t handle, char **key, char **value, size_t *key_length, size_t *length) {
  struct list *list = handle;
  *key = *value = NULL, *key_length = *length = 0;
  while (list && list->told) list = list->next;
  if (list && list->key && !list->told++) *key = list->key, *key_length = strlen(list->key), *value = list->value, *length = list->length;
  return 0;
}
void rados_omap_get_end(rados_omap_iter_t handle) {
  for (struct list *list = handle, *next; list; list = next) {
    next = list->next;
    free(list->key), free(list->value), free(list);
  }
}

/* ---- locks */

int rados_lock_exclusive(rados_ioctx_t io, const char *object, const char *name, const char *cookie, const char *desc,
                         struct timeval *life, uint8_t flags) {
  assert(io && *object && *name && !*desc && flags == 0 && (!life || life->tv_sec > 0));
  return !strcmp(cookie, "late") ? -EBUSY : 0;
}
int rados_break_lock(rados_ioctx_t io, const char *object, const char *name, const char *client, const char *cookie) {
  assert(io && *name && *client && *cookie);
  return strstr(object, "absent") ? -ENOENT : 0;
}
ssize_t rados_list_lockers(rados_ioctx_t io, const char *object, const char *name, int *exclusive, char *tag, size_t *tag_length,
                           char *clients, size_t *clients_length, char *cookies, size_t *cookies_length, char *addresses,
                           size_t *addresses_length) {
  assert(io && *name && exclusive && tag && tag_length);
  if (strstr(object, "absent")) return -ENOENT;
  size_t size = strstr(object, "many") ? 6000 : 8;
  if (*clients_length < 9 || *cookies_length < size || *addresses_length < size) return -ERANGE;
  memcpy(clients, "client.4", 9), *clients_length = 9;
  memset(cookies, 'c', size - 1), cookies[size - 1] = 0, *cookies_length = size;
  memset(addresses, 'a', size - 1), addresses[size - 1] = 0, *addresses_length = size;
  *exclusive = 1;
  return 1;
}

/* ---- an image */

static int opened(rados_ioctx_t io, const char *name, rbd_image_t *made, int writable) {
  struct pool *pool = io;
  if (!strcmp(name, "absent") || !strcmp(name, "broken")) return -ENOENT;
  struct image *image = calloc(1, sizeof *image);
  image->pool = pool, image->name = strdup(name), image->writable = writable;
  __atomic_add_fetch(&pool->images, 1, __ATOMIC_SEQ_CST);
  *made = image;
  return 0;
}
int rbd_open(rados_ioctx_t io, const char *name, rbd_image_t *image, const char *snap) { assert(!snap); return opened(io, name, image, 1); }
int rbd_open_read_only(rados_ioctx_t io, const char *name, rbd_image_t *image, const char *snap) { assert(!snap); return opened(io, name, image, 0); }
int rbd_close(rbd_image_t handle) {
  struct image *image = handle;
  __atomic_sub_fetch(&image->pool->images, 1, __ATOMIC_SEQ_CST);
  free(image->name), free(image);
  return 0;
}
static int is(rbd_image_t handle, const char *word) { return strstr(((struct image *)handle)->name, word) != NULL; }
static int writes(rbd_image_t handle) { assert(((struct image *)handle)->writable); return is(handle, "read-only") ? -EROFS : 0; }

int rbd_namespace_exists(rados_ioctx_t io, const char *name, bool *exists) { assert(io); *exists = strcmp(name, "none"); return 0; }
int rbd_get_size(rbd_image_t image, uint64_t *size) { assert(image); *size = 8 << 20; return 0; }
int rbd_get_features(rbd_image_t image, uint64_t *features) { *features = is(image, "snapshot") ? 1024 : 64; return 0; }
int rbd_get_id(rbd_image_t image, char *id, size_t length) {
  assert(image);
  if (length < 5) return -ERANGE;
  memcpy(id, "10aa", 5);
  return 0;
}
int rbd_get_parent(rbd_image_t image, rbd_linked_image_spec_t *parent, rbd_snap_spec_t *snap) {
  if (!is(image, "clone")) return -ENOENT;
  *parent = (rbd_linked_image_spec_t){.pool_name = strdup("one"), .pool_namespace = strdup(""), .image_id = strdup("9"), .image_name = strdup("base")};
  *snap = (rbd_snap_spec_t){.name = strdup("snap")};
  return 0;
}
void rbd_linked_image_spec_cleanup(rbd_linked_image_spec_t *spec) { free(spec->pool_name), free(spec->pool_namespace), free(spec->image_id), free(spec->image_name); }
void rbd_snap_spec_cleanup(rbd_snap_spec_t *spec) { free(spec->name); }

int rbd_metadata_set(rbd_image_t image, const char *key, const char *value) { assert(*key && value); return writes(image); }
int rbd_metadata_list(rbd_image_t image, const char *start, uint64_t max, char *keys, size_t *key_length, char *values, size_t *value_length) {
  size_t at_key = 0, at_value = 0;
  int all = is(image, "many") ? 600 : 2;
  uint64_t told = 0;
  for (int number = 0; number < all && told < max; number++) {
    char key[16];
    sprintf(key, "key-%03d", number);
    if (strcmp(key, start) <= 0) continue;
    /* the last one is empty */
    size_t length = number == all - 1 ? 0 : is(image, "many") ? 400 : 4;
    if (at_key + strlen(key) + 1 > *key_length || at_value + length + 1 > *value_length) return -ERANGE;
    strcpy(keys + at_key, key), at_key += strlen(key) + 1;
    memset(values + at_value, 'v', length), values[at_value + length] = 0, at_value += length + 1;
    told++;
  }
  *key_length = at_key, *value_length = at_value;
  return 0;
}

/* ---- its mirroring */

int rbd_mirror_image_get_info(rbd_image_t image, rbd_mirror_image_info_t *info, size_t size) {
  assert(size == sizeof *info);
  *info = (rbd_mirror_image_info_t){.global_id = strdup("77aa"), .state = is(image, "plain") ? RBD_MIRROR_IMAGE_DISABLED : RBD_MIRROR_IMAGE_ENABLED, .primary = true};
  return 0;
}
/* the one behind an id: that of which it was asked, but for "shown-gone" */
int rbd_mirror_image_info_list(rados_ioctx_t io, rbd_mirror_image_mode_t *filter, const char *after, size_t most, char **ids,
                               rbd_mirror_image_mode_t *modes, rbd_mirror_image_info_t *infos, size_t *number) {
  assert(io && !filter && most == 1 && *number == 1);
  size_t length = strlen(after);
  assert(length > 2 && after[length - 1] == '~');
  char *id = strdup(after);
  id[length - 1] = 0, id[length - 2]++;
  if (!strcmp(id, "shown-gone")) strcpy(id, "shown-next");
  *ids = id, *modes = strstr(id, "snapshot") ? RBD_MIRROR_IMAGE_MODE_SNAPSHOT : RBD_MIRROR_IMAGE_MODE_JOURNAL;
  *infos = (rbd_mirror_image_info_t){.global_id = strdup("77aa"), .state = RBD_MIRROR_IMAGE_ENABLED, .primary = true};
  return 0;
}
void rbd_mirror_image_info_list_cleanup(char **ids, rbd_mirror_image_info_t *infos, size_t number) {
  assert(number == 1);
  free(ids[0]), free(infos[0].global_id);
}
void rbd_mirror_image_get_info_cleanup(rbd_mirror_image_info_t *info) { free(info->global_id); }
int rbd_mirror_image_get_mode(rbd_image_t image, rbd_mirror_image_mode_t *mode) {
  *mode = is(image, "snapshot") ? RBD_MIRROR_IMAGE_MODE_SNAPSHOT : RBD_MIRROR_IMAGE_MODE_JOURNAL;
  return 0;
}
int rbd_mirror_image_promote(rbd_image_t image, bool force) { (void)force; return is(image, "busy") ? -EBUSY : writes(image); }
int rbd_mirror_image_demote(rbd_image_t image) {
  while (is(image, "hangs")) fclose(fopen("hangs", "w")), pause();
  return writes(image);
}
int rbd_mirror_image_resync(rbd_image_t image) { return writes(image); }
int rbd_mirror_image_create_snapshot(rbd_image_t image, uint64_t *id) { *id = 4; return writes(image); }
int rbd_mirror_image_get_global_status(rbd_image_t image, rbd_mirror_image_global_status_t *status, size_t size) {
  assert(size == sizeof *status);
  uint32_t count = is(image, "alone") ? 0 : 2;
  rbd_mirror_image_site_status_t *sites = count ? calloc(count, sizeof *sites) : NULL;
  for (uint32_t number = 0; number < count; number++)
    sites[number] = (rbd_mirror_image_site_status_t){.mirror_uuid = strdup(number ? "uuid-31" : ""), .state = MIRROR_IMAGE_STATUS_STATE_REPLAYING, .description = strdup("replaying"), .last_update = 1, .up = true};
  *status = (rbd_mirror_image_global_status_t){.name = strdup("x"), .info = {.global_id = strdup("77aa"), .state = RBD_MIRROR_IMAGE_ENABLED}, .site_statuses_count = count, .site_statuses = sites};
  return 0;
}
void rbd_mirror_image_global_status_cleanup(rbd_mirror_image_global_status_t *status) {
  free(status->name), free(status->info.global_id);
  for (uint32_t number = 0; number < status->site_statuses_count; number++) free(status->site_statuses[number].mirror_uuid), free(status->site_statuses[number].description);
  free(status->site_statuses);
}
#define PEERS 40
int rbd_mirror_peer_site_list(rados_ioctx_t io, rbd_mirror_peer_site_t *peers, int *max) {
  assert(io);
  if (*max < PEERS) { *max = PEERS; return -ERANGE; }
  *max = PEERS;
  for (int number = 0; number < PEERS; number++) {
    char uuid[16];
    sprintf(uuid, "uuid-%d", number);
    peers[number] = (rbd_mirror_peer_site_t){.uuid = strdup("u"), .site_name = strdup("site-b"), .mirror_uuid = strdup(uuid), .client_name = strdup("client.x")};
  }
  return 0;
}
void rbd_mirror_peer_site_list_cleanup(rbd_mirror_peer_site_t *peers, int max) {
  for (int number = 0; number < max; number++) free(peers[number].uuid), free(peers[number].site_name), free(peers[number].mirror_uuid), free(peers[number].client_name);
}

/* ---- its snapshots */

int rbd_snap_list(rbd_image_t image, rbd_snap_info_t *snaps, int *max) {
  int count = is(image, "many") ? 40 : is(image, "snapshot") ? 3 : 0;
  if (*max < count + 1) { *max = count + 1; return -ERANGE; }
  *max = count + 1;
  for (int number = 0; number < count; number++) snaps[number] = (rbd_snap_info_t){.id = number + 1, .name = strdup("snap")};
  snaps[count] = (rbd_snap_info_t){.name = NULL};
  return count;
}
void rbd_snap_list_end(rbd_snap_info_t *snaps) {
  for (; snaps->name; snaps++) free((void *)snaps->name);
}
int rbd_snap_get_namespace_type(rbd_image_t image, uint64_t id, rbd_snap_namespace_type_t *type) { assert(image); *type = id % 2 ? RBD_SNAP_NAMESPACE_TYPE_MIRROR : RBD_SNAP_NAMESPACE_TYPE_USER; return 0; }
int rbd_snap_get_mirror_namespace(rbd_image_t image, uint64_t id, rbd_snap_mirror_namespace_t *told, size_t size) {
  assert(image && id && size == sizeof *told);
  *told = (rbd_snap_mirror_namespace_t){.state = RBD_SNAP_MIRROR_STATE_NON_PRIMARY, .complete = true, .mirror_peer_uuids = strdup(""), .primary_mirror_uuid = strdup("uuid-1"), .primary_snap_id = 7};
  return 0;
}
int rbd_snap_mirror_namespace_cleanup(rbd_snap_mirror_namespace_t *told, size_t size) {
  assert(size == sizeof *told);
  free(told->mirror_peer_uuids), free(told->primary_mirror_uuid);
  return 0;
}
