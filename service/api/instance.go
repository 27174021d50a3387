package api

import "time"

// InstanceListRequest asks for the instances of the service.
type InstanceListRequest struct{}

// InstanceListResponse lists those that said within a day that they live.
type InstanceListResponse struct {
	Instances []InstanceView `json:"instances"`
}

// InstanceView is an instance as it described itself last.
type InstanceView struct {
	Instance     string    `json:"instance"`
	Version      string    `json:"version"`
	Started      time.Time `json:"started"`
	Seen         time.Time `json:"seen" doc:"Its last heartbeat, by the clock of the server. There is one every 10 s."`
	Alive        bool      `json:"alive" doc:"It was heard of within 30 s. One that ends in good order is not listed any more."`
	Running      int       `json:"running_tasks"`
	StagingUsed  int64     `json:"staging_used" doc:"Bytes."`
	StagingLimit int64     `json:"staging_limit" doc:"Bytes."`

	Problems []InstanceProblem `json:"problems,omitempty" doc:"What it cannot do until somebody mends it."`
}

// InstanceProblem is something that an instance cannot do until somebody mends
// it: a repository that it refuses, or a configuration that differs from that of
// other instances.
type InstanceProblem struct {
	Repository string `json:"repository,omitempty" doc:"The repository, if it concerns one."`
	Problem    string `json:"problem" doc:"What is wrong, for people."`
	Hint       string `json:"hint,omitempty" doc:"What can be done about it."`
}
