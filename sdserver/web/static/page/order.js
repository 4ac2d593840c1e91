/** The order of jobs that wait. Pure functions. */

/**
 * The jobs after one of them got another place; what does not wait stays as it is.
 * @param {object[]} jobs
 * @param {string} id of the one that moved
 * @param {number} to its place, from 1
 */
export function arranged(jobs, id, to) {
  const waiting = jobs.filter((job) => job.state === "queued" && job.queue_position > 0).sort((one, other) => one.queue_position - other.queue_position);
  const moved = waiting.find((job) => job.id === id);
  if (!moved) return jobs;
  const others = waiting.filter((job) => job !== moved);
  const places = new Map([...others.slice(0, to - 1), moved, ...others.slice(to - 1)].map((job, at) => [job.id, at + 1]));
  return jobs.map((job) => (places.has(job.id) ? { ...job, queue_position: places.get(job.id) } : job));
}
