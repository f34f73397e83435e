/* Slots, areas and permits across processes that end as they like. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/breaker.h"
#include "lib/instance.h"

enum { LEASES = 3 };

static char path[64];

struct area {
    _Atomic int64_t counter;
};

static struct instance_plan plan_of(size_t area_bytes, uint64_t layout)
{
    return (struct instance_plan){.path = path, .area_bytes = area_bytes, .area_layout = layout};
}

static int fresh_file(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/dev/shm/maxbooster-test-%d", (int)getpid());
    unlink(path);
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    instance_close();
    unlink(path);
    return 0;
}

/* Run fn in a child that then waits to be killed; returns its pid once fn is done. */
static pid_t start_child(void (*fn)(void))
{
    int ready[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        fn();
        if (write(ready[1], "x", 1) != 1) {
            _exit(1);
        }
        for (;;) {
            pause();
        }
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void end_child(pid_t pid)
{
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void open_instance(void)
{
    struct instance_plan plan = plan_of(sizeof(struct area), 7);

    instance_open(&plan);
}

static void open_and_count(void)
{
    open_instance();
    atomic_fetch_add(&((struct area *)instance_area())->counter, 1000);
}

static struct permit_set *leases(int database)
{
    return instance_pool(database == 0 ? "host=a dbname=zero" : "host=a dbname=one").leases;
}

static void open_and_take_all(void)
{
    int i;

    open_instance();
    for (i = 0; i < LEASES; i++) {
        if (permit_try(leases(1), instance_owner(), LEASES, 0) < 0) {
            _exit(1);
        }
    }
}

static int64_t sum_of_areas(int *alive_out)
{
    int64_t sum = 0;
    int i;

    *alive_out = 0;
    for (i = 0; i < INSTANCE_SLOTS; i++) {
        bool is_alive;
        const struct area *a = instance_area_of(i, &is_alive);

        if (a != NULL) {
            sum += atomic_load(&a->counter);
            *alive_out += is_alive;
        }
    }
    return sum;
}

static void test_counters_survive_kill_and_restart_exactly(void **state)
{
    int round, alive;

    (void)state;
    open_and_count();
    assert_true(instance_is_shared());
    for (round = 1; round <= 5; round++) {
        pid_t child = start_child(open_and_count);

        assert_int_equal(sum_of_areas(&alive), 1000 + 1000 * round);
        assert_int_equal(alive, 2);
        end_child(child);
        assert_int_equal(sum_of_areas(&alive), 1000 + 1000 * round);
        assert_int_equal(alive, 1);
    }
    assert_null(instance_area_of(2, NULL)); /* each child took its predecessor's slot over */
}

static struct breaker breaker_of_a_pool(void)
{
    return (struct breaker){.word = instance_pool("dbname=1").breaker,
                            .failures_max = 1,
                            .open_ms = 10,
                            .probe_ms = 1000000};
}

static bool may_probe(int64_t now_ms)
{
    struct breaker b = breaker_of_a_pool();
    int64_t probe;

    return breaker_allow(&b, now_ms, &probe) && probe != 0;
}

static void send_a_probe(void)
{
    struct breaker b;

    open_instance();
    b = breaker_of_a_pool();
    breaker_failure(&b, 0, 0);
    assert_true(may_probe(10));
}

static void test_the_probe_of_a_killed_process_is_not_waited_for(void **state)
{
    pid_t child;

    (void)state;
    open_instance();
    child = start_child(send_a_probe);
    assert_int_equal(instance_reclaim(), 0);
    assert_false(may_probe(1000));
    end_child(child);
    assert_int_equal(instance_reclaim(), 1);
    assert_true(may_probe(1000));
    end_child(start_child(open_instance)); /* takes the dead one's slot over: nothing to free */
    assert_false(may_probe(1000));
}

static void test_permits_of_a_killed_process_are_reclaimed(void **state)
{
    pid_t child;

    (void)state;
    open_instance();
    child = start_child(open_and_take_all);
    assert_int_equal(permit_count(leases(1), 0), LEASES);
    assert_int_equal(permit_try(leases(1), instance_owner(), LEASES, 0), -1);
    assert_int_equal(instance_reclaim(), 0);
    assert_int_equal(permit_count(leases(1), 0), LEASES);
    end_child(child);
    assert_int_equal(instance_reclaim(), 1);
    assert_int_equal(permit_count(leases(1), 0), 0);
    assert_int_equal(instance_reclaim(), 0);
}

static void test_a_successor_frees_the_permits_of_its_slot(void **state)
{
    pid_t child;

    (void)state;
    open_instance();
    end_child(start_child(open_and_take_all));
    child = start_child(open_instance);
    assert_int_equal(permit_count(leases(1), 0), 0);
    end_child(child);
}

static void test_closing_gives_back_permits_and_keeps_counters(void **state)
{
    int alive;

    (void)state;
    open_and_count();
    assert_true(permit_try(leases(0), instance_owner(), 5, 0) >= 0);
    instance_close();
    open_instance();
    assert_int_equal(permit_count(leases(0), 0), 0);
    assert_int_equal(sum_of_areas(&alive), 1000);
    assert_int_equal(instance_slot(), 0);
}

static void test_another_layout_starts_a_file_of_its_own(void **state)
{
    struct instance_plan other = plan_of(sizeof(struct area), 8);
    pid_t child;
    int alive;

    (void)state;
    child = start_child(open_and_count);
    instance_open(&other);
    assert_true(instance_is_shared());
    assert_int_equal(sum_of_areas(&alive), 0);
    assert_int_equal(instance_slot(), 0);
    end_child(child);
}

static void test_a_foreign_file_is_left_alone(void **state)
{
    static const char text[] = "something that is not ours";
    char back[sizeof(text)];
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);

    (void)state;
    assert_int_equal(write(fd, text, sizeof(text)), sizeof(text));
    open_and_count();
    assert_false(instance_is_shared());
    assert_int_equal(permit_count(leases(1), 0), 0);
    assert_int_equal(pread(fd, back, sizeof(back), 0), sizeof(back));
    assert_memory_equal(back, text, sizeof(text));
    close(fd);
}

static void test_a_symbolic_link_is_not_followed(void **state)
{
    (void)state;
    assert_int_equal(symlink("/dev/shm/maxbooster-test-elsewhere", path), 0);
    open_instance();
    assert_false(instance_is_shared());
    assert_int_equal(access("/dev/shm/maxbooster-test-elsewhere", F_OK), -1);
}

static void test_a_file_whose_maker_died_is_made_anew(void **state)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);

    (void)state;
    assert_int_equal(ftruncate(fd, 12345), 0);
    close(fd);
    open_and_count();
    assert_true(instance_is_shared());
}

static void open_and_fill_the_table(void)
{
    char name[32];
    int i;

    open_instance();
    for (i = 0; i < INSTANCE_POOLS; i++) {
        snprintf(name, sizeof(name), "dbname=%d", i);
        atomic_fetch_add(instance_pool(name).counters, 1);
    }
}

static void test_a_pool_is_found_by_its_name_from_every_process(void **state)
{
    struct instance_pool a, b;
    pid_t child;

    (void)state;
    open_instance();
    a = instance_pool("dbname=7");
    child = start_child(open_and_fill_the_table);
    assert_int_equal(atomic_load(&a.counters[0]), 1);
    b = instance_pool("dbname=8");
    assert_int_equal(atomic_load(&b.counters[0]), 1);
    assert_ptr_not_equal(a.leases, b.leases);
    assert_ptr_equal(instance_pool("dbname=7").leases, a.leases);
    end_child(child);
}

static void test_a_pool_without_room_is_the_processs_own(void **state)
{
    static struct instance_pool p; /* for ever, as its memory */
    pid_t child;

    (void)state;
    open_instance();
    child = start_child(open_and_fill_the_table);
    p = instance_pool("dbname=more");
    assert_int_equal(permit_try(p.leases, instance_owner(), LEASES, 0), 0);
    assert_int_equal(atomic_load(p.breaker), 0);
    end_child(child);
}

static void test_the_first_process_forgets_pools_that_are_many(void **state)
{
    pid_t child;

    (void)state;
    end_child(start_child(open_and_fill_the_table));
    child = start_child(open_instance);
    open_instance();
    assert_int_equal(atomic_load(instance_pool("dbname=7").counters), 0);
    end_child(child);
}

static void write_on_the_board(void)
{
    open_instance();
    memcpy(instance_board(), "here", 5);
}

static void test_all_processes_see_the_board(void **state)
{
    (void)state;
    open_instance();
    end_child(start_child(write_on_the_board));
    assert_string_equal(instance_board(), "here");
}

static void note_a_topic(void)
{
    open_instance();
    atomic_store(&instance_topic("redis here:1")[1], 5);
    atomic_store(instance_pool("s3").breaker, 7);
}

static void test_a_topic_is_shared_until_the_last_process_has_gone(void **state)
{
    pid_t child;

    (void)state;
    child = start_child(note_a_topic);
    open_instance();
    assert_int_equal(atomic_load(&instance_topic("redis here:1")[1]), 5);
    assert_int_equal(atomic_load(&instance_topic("redis there:1")[1]), 0);
    assert_int_equal(atomic_load(instance_pool("s3").breaker), 7);
    end_child(child);
    assert_int_equal(atomic_load(&instance_topic("redis here:1")[1]), 5);
    instance_close();
    assert_null(instance_topic("redis here:1"));
    open_instance();
    assert_int_equal(atomic_load(&instance_topic("redis here:1")[1]), 0);
    assert_int_equal(atomic_load(instance_pool("s3").breaker), 0);
}

static void test_topics_beyond_the_room_are_refused(void **state)
{
    char name[32];
    int i;

    (void)state;
    open_instance();
    for (i = 0; i < INSTANCE_TOPICS; i++) {
        snprintf(name, sizeof(name), "redis %d", i);
        assert_non_null(instance_topic(name));
    }
    assert_null(instance_topic("redis more"));
    assert_non_null(instance_topic("redis 7"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counters_survive_kill_and_restart_exactly, fresh_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(test_the_probe_of_a_killed_process_is_not_waited_for,
                                        fresh_file, remove_file),
        cmocka_unit_test_setup_teardown(test_permits_of_a_killed_process_are_reclaimed, fresh_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(test_a_successor_frees_the_permits_of_its_slot, fresh_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(test_closing_gives_back_permits_and_keeps_counters,
                                        fresh_file, remove_file),
        cmocka_unit_test_setup_teardown(test_another_layout_starts_a_file_of_its_own, fresh_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(test_a_foreign_file_is_left_alone, fresh_file, remove_file),
        cmocka_unit_test_setup_teardown(test_a_symbolic_link_is_not_followed, fresh_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(test_a_file_whose_maker_died_is_made_anew, fresh_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(test_a_pool_is_found_by_its_name_from_every_process,
                                        fresh_file, remove_file),
        cmocka_unit_test_setup_teardown(test_a_pool_without_room_is_the_processs_own, fresh_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(test_the_first_process_forgets_pools_that_are_many,
                                        fresh_file, remove_file),
        cmocka_unit_test_setup_teardown(test_all_processes_see_the_board, fresh_file, remove_file),
        cmocka_unit_test_setup_teardown(test_a_topic_is_shared_until_the_last_process_has_gone,
                                        fresh_file, remove_file),
        cmocka_unit_test_setup_teardown(test_topics_beyond_the_room_are_refused, fresh_file,
                                        remove_file),
    };

    return cmocka_run_group_tests_name("instance", tests, NULL, NULL);
}
