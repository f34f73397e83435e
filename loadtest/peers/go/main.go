// GET /api/auth/me on net/http: the work of maxbooster-api with the libraries that a Go service
// usually takes. Environment: PORT, POOL_SIZE, DATABASE_URL, REDIS_URL, RATE_LIMIT_MAX,
// RATE_LIMIT_WINDOW_MS, SESSION_TTL, SCRIPT (file of the Lua script), LOG_FILE.
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

const (
	touchMS    = 60000
	tokenBytes = 48
	timeLayout = "2006-01-02T15:04:05.000Z07:00"
	userQuery  = "SELECT id::text, email, name, role, password_hash, version, created_at, " +
		"updated_at FROM users WHERE id = $1"
	sendToken = "Send a session's token as a Bearer token."
)

type claim struct{ user, session, hash string }

type user struct {
	ID           string `json:"id"`
	Email        string `json:"email"`
	Name         string `json:"name"`
	Role         string `json:"role"`
	passwordHash string
	version      int64
	CreatedAt    string `json:"createdAt"`
	UpdatedAt    string `json:"updatedAt"`
}

type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Instance  string `json:"instance"`
	Code      string `json:"code"`
	RequestID string `json:"requestId"`
}

type server struct {
	pool                   *pgxpool.Pool
	redis                  *redis.Client
	script                 *redis.Script
	log                    *slog.Logger
	quota, windowMS, ttlMS int64
	windowS                int64
	policy                 string
}

type keyType int

const requestIDKey keyType = 0

func uuidText(b []byte) string {
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// A token is base64url(user id, 16 bytes ‖ secret, 32 bytes); the session's id comes from the
// secret's hash.
func claimOf(authorization string) (claim, bool) {
	text, found := strings.CutPrefix(authorization, "Bearer ")
	if !found {
		return claim{}, false
	}
	token, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(token) != tokenBytes {
		return claim{}, false
	}
	who := uuidText(token[:16])
	hash := sha256.Sum256(token[16:])
	place := sha256.Sum256([]byte(who))
	id := make([]byte, 16)
	copy(id, hash[:16])
	copy(id, place[:4])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return claim{who, uuidText(id), hex.EncodeToString(hash[:])}, true
}

func requestID(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey).(string)
	return id
}

func refuse(w http.ResponseWriter, r *http.Request, status int, code, title, detail string) {
	id := requestID(r)
	body, _ := json.Marshal(problem{"/problems/" + code, title, status, detail, id, code, id})
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func ceilSeconds(ms int64) int64 { return (ms + 999) / 1000 }

// Session and rate in one script.
func (s *server) guard(w http.ResponseWriter, r *http.Request) (string, bool) {
	c, ok := claimOf(r.Header.Get("Authorization"))
	if !ok {
		refuse(w, r, 401, "unauthenticated", "No valid session", sendToken)
		return "", false
	}
	keys := []string{"session:{" + c.user + "}:" + c.session, "rate:{" + c.user + "}:default",
		"sessions:{" + c.user + "}", "written:{" + c.user + "}"}
	reply, err := s.script.Run(r.Context(), s.redis, keys, c.hash, time.Now().UnixMilli(), touchMS,
		s.ttlMS, c.session, s.quota, s.windowMS).Result()
	if err != nil {
		s.log.Error("redis", "error", err)
		refuse(w, r, 503, "dependency_unavailable", "A dependency failed", "Try again.")
		return "", false
	}
	verdict, ok := reply.([]any)
	if !ok || len(verdict) != 9 {
		refuse(w, r, 401, "unauthenticated", "No valid session", sendToken)
		return "", false
	}
	var n [4]int64
	for i := range n {
		n[i], _ = verdict[i].(int64)
	}
	h := w.Header()
	h.Set("RateLimit-Policy", s.policy)
	h.Set("RateLimit", `"default";r=`+strconv.FormatInt(n[1], 10)+
		`;t=`+strconv.FormatInt(ceilSeconds(n[2]), 10))
	if n[0] != 1 {
		h.Set("Retry-After", strconv.FormatInt(ceilSeconds(n[3]), 10))
		refuse(w, r, 429, "rate_limited", "Too many requests",
			fmt.Sprintf("At most %d requests in %d s here.", s.quota, s.windowS))
		return "", false
	}
	return c.user, true
}

func (s *server) me(w http.ResponseWriter, r *http.Request) {
	id, ok := s.guard(w, r)
	if !ok {
		return
	}
	var u user
	var created, updated time.Time
	err := s.pool.QueryRow(r.Context(), userQuery, id).Scan(&u.ID, &u.Email, &u.Name, &u.Role,
		&u.passwordHash, &u.version, &created, &updated)
	if errors.Is(err, pgx.ErrNoRows) {
		refuse(w, r, 401, "unauthenticated", "No valid session", "The user is gone.")
		return
	}
	if err != nil {
		s.log.Error("postgresql", "error", err)
		refuse(w, r, 503, "dependency_unavailable", "A dependency failed", "Try again.")
		return
	}
	u.CreatedAt, u.UpdatedAt = created.UTC().Format(timeLayout), updated.UTC().Format(timeLayout)
	body, err := json.Marshal(&u)
	if err != nil {
		refuse(w, r, 500, "internal", "Internal error", "Try again.")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("ETag", `"v`+strconv.FormatInt(u.version, 10)+`"`)
	_, _ = w.Write(body)
}

type recorder struct {
	http.ResponseWriter
	status, bytes int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.bytes += len(b)
	return r.ResponseWriter.Write(b)
}

// One JSON line a request.
func logged(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		id := r.Header.Get("X-Request-Id")
		if id == "" {
			id = rand.Text()
		}
		rec := &recorder{ResponseWriter: w, status: 200}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(rec, r.WithContext(context.WithValue(r.Context(), requestIDKey, id)))
		log.LogAttrs(r.Context(), slog.LevelInfo, "request",
			slog.String("requestId", id), slog.String("method", r.Method),
			slog.String("path", r.URL.Path), slog.String("address", r.RemoteAddr),
			slog.Int("status", rec.status), slog.Int("bytesOut", rec.bytes),
			slog.Int64("totalUs", time.Since(started).Microseconds()))
	})
}

func number(name string) int64 {
	n, err := strconv.ParseInt(os.Getenv(name), 10, 64)
	if err != nil {
		fatal(fmt.Errorf("%s: %w", name, err))
	}
	return n
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "peer:", err)
	os.Exit(1)
}

func must[T any](v T, err error) T {
	if err != nil {
		fatal(err)
	}
	return v
}

func main() {
	out := must(os.OpenFile(os.Getenv("LOG_FILE"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640))
	log := slog.New(slog.NewJSONHandler(out, nil))
	config := must(pgxpool.ParseConfig(os.Getenv("DATABASE_URL")))
	config.MaxConns = int32(number("POOL_SIZE"))
	options := must(redis.ParseURL(os.Getenv("REDIS_URL")))
	s := &server{
		pool:   must(pgxpool.NewWithConfig(context.Background(), config)),
		redis:  redis.NewClient(options),
		script: redis.NewScript(string(must(os.ReadFile(os.Getenv("SCRIPT"))))),
		log:    log, quota: number("RATE_LIMIT_MAX"), windowMS: number("RATE_LIMIT_WINDOW_MS"),
		ttlMS: number("SESSION_TTL") * 1000,
	}
	s.windowS = ceilSeconds(s.windowMS)
	s.policy = fmt.Sprintf(`"default";q=%d;w=%d`, s.quota, s.windowS)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/auth/me", s.me)
	web := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: logged(log, mux),
		ReadHeaderTimeout: 10 * time.Second}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	go func() {
		<-stop.Done()
		_ = web.Close()
	}()
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fatal(err)
	}
}
