/* SPDX-License-Identifier: MIT
 * apart.h - the cells apart from their products, from finished pre-activations: for peepholes and a clip, so that the
 * steps of body.h have nothing to do with either, for Cho's GRU, which needs r of all units before any n, and for a
 * lone step, whose weights are not packed. Part of body.h, whose vectors, activations and slopes it uses. */

/* Kept in -clip..clip; NaN stays NaN. */
INLINE vec clipped(vec z, real clip) { return max(all(-clip), -max(all(-clip), -z)); }

/* The same of z + p c, or, without peepholes, of z. */
INLINE vec peeped(vec z, const real *p, ptrdiff_t u, vec c, ptrdiff_t lanes, real clip)
{
    return clipped(p ? fmadd(get(p + u, lanes), c, z) : z, clip);
}

static void rnn_cell(ptrdiff_t n, ptrdiff_t H, int relu, real clip, const real *z, real *h, ptrdiff_t ldh)
{
    EACH_VECTOR(n, H)
    {
        vec a = clipped(get(z + i * H + u, lanes), clip);
        set(h + i * ldh + u, rnn_value(a, relu), lanes);
    }
}

static void lstm_cell(ptrdiff_t n, ptrdiff_t H, real clip, const real *z, const real *p, real *c, real *h,
                      ptrdiff_t ldh)
{
    EACH_VECTOR(n, H)
    {
        const real *row = z + i * 4 * H + u;
        vec c_prev = get(c + i * H + u, lanes);
        quotient it = sigmoid_of(peeped(get(row, lanes), p, u, c_prev, lanes, clip));
        quotient f = sigmoid_of(peeped(get(row + H, lanes), p, H + u, c_prev, lanes, clip));
        quotient g = tanh_of(clipped(get(row + 2 * H, lanes), clip));
        vec ct = fmadd(f.num / f.den, c_prev, (it.num * g.num) / (it.den * g.den));
        quotient o = sigmoid_of(peeped(get(row + 3 * H, lanes), p, 2 * H + u, ct, lanes, clip));
        quotient t = tanh_of(clipped(ct, clip));
        set(c + i * H + u, ct, lanes);
        set(h + i * ldh + u, (o.num * t.num) / (o.den * t.den), lanes);
    }
}

static void gru_gates(ptrdiff_t n, ptrdiff_t H, real clip, real *z, const real *h_prev, ptrdiff_t ldh_prev, real *rh,
                      ptrdiff_t ldrh)
{
    EACH_VECTOR(n, H)
    {
        real *row = z + i * 3 * H + u;
        vec r = sigmoid_vec(clipped(get(row, lanes), clip));
        set(row, r, lanes);
        set(row + H, sigmoid_vec(clipped(get(row + H, lanes), clip)), lanes);
        set(rh + i * ldrh + u, r * get(h_prev + i * ldh_prev + u, lanes), lanes);
    }
}

static void gru_reset(ptrdiff_t n, ptrdiff_t H, real clip, const real *z, const real *q, const real *h_prev,
                      ptrdiff_t ldh_prev, real *h, ptrdiff_t ldh, real *tape)
{
    EACH_VECTOR(n, H)
    {
        const real *row = z + i * 3 * H + u;
        vec r = get(row, lanes), zt = get(row + H, lanes), nt = get(row + 2 * H, lanes);
        if (q)
            nt = fmadd(r, get(q + i * H + u, lanes), nt);
        nt = tanh_vec(clipped(nt, clip));
        set(h + i * ldh + u, fmadd(zt, get(h_prev + i * ldh_prev + u, lanes) - nt, nt), lanes);
        if (tape) {
            real *to = tape + i * FRNN_GRU_TAPE * H + u;
            set(to, r, lanes);
            set(to + H, zt, lanes);
            set(to + 2 * H, nt, lanes);
        }
    }
}

static void gru_reset_back(ptrdiff_t n, ptrdiff_t H, const real *tape, const real *h_prev, ptrdiff_t ldh_prev, real *dh,
                           real *dz, ptrdiff_t lddz)
{
    EACH_VECTOR(n, H)
    {
        const real *row = tape + i * FRNN_GRU_TAPE * H + u;
        real *to = dz + i * lddz + u;
        vec z = get(row + H, lanes), nt = get(row + 2 * H, lanes), dht = get(dh + i * H + u, lanes);
        set(to, dht * (all(1) - z) * tanh_slope(nt), lanes);
        set(to + 2 * H, dht * (get(h_prev + i * ldh_prev + u, lanes) - nt) * sigmoid_slope(z), lanes);
        set(dh + i * H + u, dht * z, lanes);
    }
}

static void gru_gates_back(ptrdiff_t n, ptrdiff_t H, const real *tape, const real *h_prev, ptrdiff_t ldh_prev,
                           const real *drh, real *dh, real *dz, ptrdiff_t lddz)
{
    EACH_VECTOR(n, H)
    {
        vec r = get(tape + i * FRNN_GRU_TAPE * H + u, lanes), d = get(drh + i * H + u, lanes);
        set(dz + i * lddz + H + u, d * get(h_prev + i * ldh_prev + u, lanes) * sigmoid_slope(r), lanes);
        set(dh + i * H + u, fmadd(d, r, get(dh + i * H + u, lanes)), lanes);
    }
}
