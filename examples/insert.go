// Writes one event with a plain INSERT. Nothing of agent_events is needed on this side.
//
//	go mod init insert && go get github.com/jackc/pgx/v5
//	DATABASE_URL=postgresql://... go run insert.go <tenant id> <agent id>
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
)

const insert = `
	INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
	VALUES ($1, $2, $3, $4)
	RETURNING id`

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: DATABASE_URL=postgresql://... go run insert.go <tenant id> <agent id>")
	}
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	// Inside a transaction of yours (conn.Begin) the event is seen when that commits, and never
	// if it rolls back.
	payload := map[string]any{"tokens": 142, "latency": 820}
	var id int64
	err = conn.QueryRow(ctx, insert, os.Args[1], os.Args[2], "turn_complete", payload).Scan(&id)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("event", id)
}
