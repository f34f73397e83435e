/* The least that a FastCGI program can do: what nginx and the protocol cost without any work.
 *   null_fcgi THREADS      the listening socket is descriptor 0, as spawn-fcgi leaves it */
#include <fcgiapp.h>
#include <pthread.h>
#include <stdlib.h>

enum { THREADS_MAX = 256 };

static void *serve(void *unused)
{
    static const char reply[] = "Content-Type: application/json\r\n\r\n{\"status\":\"ok\"}";
    FCGX_Request request;

    (void)unused;
    FCGX_InitRequest(&request, 0, 0);
    while (FCGX_Accept_r(&request) == 0) {
        FCGX_PutStr(reply, sizeof(reply) - 1, request.out);
        FCGX_Finish_r(&request);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int n = argc == 2 ? (int)strtol(argv[1], NULL, 10) : 0, i;
    pthread_t threads[THREADS_MAX];

    if (n < 1 || n > THREADS_MAX || FCGX_Init() != 0) {
        return 2;
    }
    for (i = 0; i < n; i++) {
        if (pthread_create(&threads[i], NULL, serve, NULL) != 0) {
            return 1;
        }
    }
    for (i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    return 0;
}
